"""The same tutorial in the spelling of Ray Serve 0.8: serve.init() and functions of the module.

python tutorial_init.py
"""

import time
from typing import List

import numpy as np
import requests

import shoal as ray  # was: import ray
from shoal import serve  # was: from ray import serve


@serve.accept_batch
def batch_adder_v0(flask_requests: List):
    numbers = np.array([int(request.args["number"]) for request in flask_requests])
    print("Our input array has shape:", numbers.shape)
    time.sleep(0.2)  # a real model would be busy here
    return (numbers + 1).astype(int).tolist()


serve.init()
serve.create_backend("adder:v0", batch_adder_v0, config={"max_batch_size": 4})
serve.create_endpoint("adder", backend="adder:v0", route="/adder", methods=["GET"])


@ray.remote
def send_query(number):
    resp = requests.get("http://localhost:8000/adder?number={}".format(number))
    return int(resp.text)


results = ray.get([send_query.remote(i) for i in range(9)])
print("Result returned:", results)


@serve.accept_batch
def batch_adder_v1(flask_requests: List, *, numbers: List = []):
    print("Current context is", "web" if serve.context.web else "python")
    if serve.context.web:
        numbers = [int(request.args["number"]) for request in flask_requests]
    input_array = np.array(numbers)
    print("Our input array has shape:", input_array.shape)
    time.sleep(0.2)
    return (input_array + 1).astype(int).tolist()


serve.create_backend("adder:v1", batch_adder_v1, config={"max_batch_size": 4})
serve.set_traffic("adder", {"adder:v1": 1})

handle = serve.get_handle("adder")
print(handle)

input_batch = list(range(9))
print("Input batch is", input_batch)
result_batch = ray.get([handle.remote(numbers=i) for i in input_batch])
print("Result batch is", result_batch)
