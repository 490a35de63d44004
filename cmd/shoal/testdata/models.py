"""Models for the scripts."""

from shoal import serve

print("loading")


@serve.accept_batch
def adder(requests, *, number=None):
    if serve.context.web:
        number = [int(request.args["number"]) for request in requests]
    print("a batch of", len(number))
    return [n + 1 for n in number]


class Scaler:
    def __init__(self, factor=2, *, offset=0):
        self.factor, self.offset = factor, offset

    def __call__(self, request, *, number=None):
        if serve.context.web:
            number = int(request.args["number"])
        if number < 0:
            raise ValueError("only natural numbers")
        return self.factor * number + self.offset


def echo(request, *, text=None):
    return {"data": getattr(request, "data", None), "text": text}


class Broken:
    def __init__(self):
        raise RuntimeError("no weights")

    def __call__(self, request): ...
