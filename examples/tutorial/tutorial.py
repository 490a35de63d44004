"""Batching, in the style of Ray Serve 1.0's tutorial: one program, of which only the import lines changed.

python tutorial.py
"""

import time
from typing import List

import numpy as np
import requests

import shoal as ray  # was: import ray
from shoal import serve  # was: from ray import serve


# A model that computes many queries in one vectorised call: it takes a list and returns a list.
@serve.accept_batch
def batch_adder_v0(flask_requests: List):
    numbers = np.array([int(request.args["number"]) for request in flask_requests])
    print("Our input array has shape:", numbers.shape)
    time.sleep(0.2)  # a real model would be busy here
    return (numbers + 1).astype(int).tolist()


ray.init(num_cpus=8)
client = serve.start()
client.create_backend("adder:v0", batch_adder_v0, config={"max_batch_size": 4})
client.create_endpoint("adder", backend="adder:v0", route="/adder", methods=["GET"])


# Nine clients in parallel. Each asks for one number; the model sees arrays of at most four.
@ray.remote
def send_query(number):
    resp = requests.get("http://localhost:8000/adder?number={}".format(number))
    return int(resp.text)


results = ray.get([send_query.remote(i) for i in range(9)])
print("Result returned:", results)


# A second version, which can be called from Python as well. A batch has one origin: either every query
# came over HTTP, and the requests tell the numbers, or every query came from a handle, and the keyword
# argument holds them.
@serve.accept_batch
def batch_adder_v1(flask_requests: List, *, number: List = []):
    print("Current context is", "web" if serve.context.web else "python")
    if serve.context.web:
        number = [int(request.args["number"]) for request in flask_requests]
    input_array = np.array(number)
    print("Our input array has shape:", input_array.shape)
    time.sleep(0.2)
    return (input_array + 1).astype(int).tolist()


client.create_backend("adder:v1", batch_adder_v1, config={"max_batch_size": 4})
client.set_traffic("adder", {"adder:v1": 1})

handle = client.get_handle("adder")
print(handle)

input_batch = list(range(9))
print("Input batch is", input_batch)
result_batch = ray.get([handle.remote(number=i) for i in input_batch])
print("Result batch is", result_batch)
