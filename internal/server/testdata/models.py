"""Models for the tests."""

from shoal import serve


@serve.accept_batch
def adder(requests, *, number=None):
    if serve.context.web:
        number = [int(request.args["number"]) for request in requests]
    return [n + 1 for n in number]


class Scaler:
    def __init__(self, factor, *, offset=0):
        self.factor, self.offset = factor, offset

    def __call__(self, request):
        return self.factor * int(request.args["number"]) + self.offset


def gate(request):
    """Says that it was entered, and waits until it is opened; both are named pipes."""
    open(request.args["entered"], "w").close()
    open(request.args["opened"]).close()
    return "through"


class Broken:
    def __init__(self):
        raise RuntimeError("no weights")

    def __call__(self, request): ...
