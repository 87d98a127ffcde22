"""Saves two models to one folder and is killed in it, or reads beside it; prints what came of it as JSON.

Run by test_saved.py: saving.py MODEL MODEL FOLDER MODE=COUNT…, a mode of kills, steps, readers, savers.
"""

import hashlib
import itertools
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import torch

import gatewise as gw
from gatewise.errors import GatewiseError

# What a save does to files, as Python's audit hooks name it.
OPERATIONS = {"open", "os.rename", "os.remove", "os.listdir", "os.scandir", "fcntl.flock"}


def digest(model):
    """A text that is the same for models that are equal to the bit."""
    parts = [
        model.held_out_,
        *vars(model.input_scale_).values(),
        *vars(model.target_scale_).values(),
    ]
    parts += [weights.numpy() for weights in model.network_.state_dict().values()]
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def forked(work):
    """A child process that does ``work``; its exit status is 1 if that fails."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
    except GatewiseError as error:
        print(error, file=sys.stderr)
    finally:
        os._exit(status)


def found(folder, known):
    """Which of the known models the folder holds; "refused", or "mixed" for none of them."""
    try:
        return known.get(digest(gw.load(folder)), "mixed")
    except GatewiseError as error:
        print(error, file=sys.stderr)
        return "refused"


def kills(count, models, known, folder):
    """A process that saves in a loop is killed after a random time, ``count`` times."""
    draw = random.Random(0)
    models[0].save(folder)
    begun = time.perf_counter()
    models[1].save(folder)
    once = time.perf_counter() - begun

    def work():
        for model in itertools.cycle(models):
            model.save(folder)

    tally = Counter()
    for _ in range(count):
        child = forked(work)
        time.sleep(draw.uniform(0, 4 * once))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        tally[found(folder, known)] += 1
    return dict(tally)


def steps(_, models, known, folder):
    """A save of the second model over the first is killed before each of its operations on files."""

    def work(last):
        number = itertools.count()

        def hook(event, arguments):
            if event in OPERATIONS and next(number) == last:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        models[1].save(folder)

    results = []
    for last in itertools.count():
        models[0].save(folder)
        child = forked(lambda last=last: work(last))
        killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
        results.append(found(folder, known))
        if not killed:
            return results


def readers(count, models, known, folder):
    """Two processes load ``count`` times while a third saves in a loop."""
    models[0].save(folder)

    def write():
        for model in itertools.cycle(models):
            model.save(folder)

    def read(pipe):
        tally = Counter(found(folder, known) for _ in range(count))
        os.write(pipe, json.dumps(tally).encode())

    writer, total = forked(write), Counter()
    pipes = [os.pipe() for _ in range(2)]
    children = [forked(lambda end=end: read(end)) for _, end in pipes]
    for child, (begin, _) in zip(children, pipes, strict=True):
        os.waitpid(child, 0)
        total.update(json.loads(os.read(begin, 1 << 16)))
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    return dict(total)


def savers(count, models, known, folder):
    """Two processes save ``count`` times at once, one each model: their statuses, and what they leave."""

    def work(model):
        for _ in range(count):
            model.save(folder)

    children = [forked(lambda model=model: work(model)) for model in models]
    statuses = [os.waitpid(child, 0)[1] for child in children]
    return [statuses, found(folder, known), sorted(path.suffix for path in folder.iterdir())]


def main():
    first, second, folder, *wanted = sys.argv[1:]
    torch.set_num_threads(1)
    models = [gw.load(path) for path in (first, second)]
    known = {digest(model): name for model, name in zip(models, ("first", "second"), strict=True)}
    modes = dict(kills=kills, steps=steps, readers=readers, savers=savers)
    results = {}
    for mode, count in (each.split("=") for each in wanted):
        results[mode] = modes[mode](int(count), models, known, Path(folder, mode))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
