"""Deploys itself."""

from models import adder

from shoal import serve

serve.init()
serve.create_backend("adder:v1", adder, config={"max_batch_size": 4})
serve.create_endpoint("adder", backend="adder:v1", route="/adder")
print("deployed")
