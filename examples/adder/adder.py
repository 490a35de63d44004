"""A vectorised adder.

shoal serve adder.py:batch_adder --max-batch-size 4     then: curl '127.0.0.1:8000/batch_adder?number=41'
shoal serve shoal.yaml                                  then: curl '127.0.0.1:8000/adder?number=41'
"""

import numpy as np

from shoal import serve


@serve.accept_batch
def batch_adder(requests, *, number=None):
    """Add one to the numbers of a whole batch at once."""
    if serve.context.web:  # a batch has one origin: all of it came over HTTP, or all of it from handles
        number = [int(request.args["number"]) for request in requests]
    return (np.array(number) + 1).tolist()
