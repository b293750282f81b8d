"""A script that works where it is imported anew too: what its child, which imports it, says of that."""

import multiprocessing

from told import result

from minigrad import distributed


def main(errors):
    """In the child: try what the script does outside of its main block."""
    try:
        distributed.init()
    except RuntimeError as error:
        errors.put(f"RuntimeError: {error}")
    else:
        errors.put("nothing")


if __name__ == "__main__":
    distributed.init(timeout=200)
    context = multiprocessing.get_context("spawn")
    errors = context.Queue()
    child = context.Process(target=main, args=(errors,))
    child.start()
    said = errors.get(timeout=100)
    child.join()
    result(said)
