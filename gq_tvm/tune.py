"""``python -m gq_tvm.tune``: find the fastest schedules for the layers of a model."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from gq_tvm.command import command, positive
from gq_tvm.errors import Error
from gq_tvm.ops.checks import ACTIVATIONS

if TYPE_CHECKING:
    from gq_tvm.plan.plan import Plan
    from gq_tvm.runtime.devices.device import RpcDevice
    from gq_tvm.schedules import Product
    from gq_tvm.schedules.choosing.chooser import Chooser
    from gq_tvm.targets import Target
    from gq_tvm.tuning.progress import Progress
    from gq_tvm.tuning.task import Task
    from gq_tvm.tuning.verdict import Tuned

TRIALS = 64

_EPILOG = """\
A compile for the same target picks the results up. Stopped (Ctrl-C, or worse), the same command
goes on where it was. Examples:
  python -m gq_tvm.tune model.pt2
  python -m gq_tvm.compile model.pt2 -o model.gq
  python -m gq_tvm.tune pi.gq --rpc 192.168.1.7:9090
  python -m gq_tvm.tune pi.gq --modelled
"""


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command; see ``--help``."""
    parser = _parser()
    options = parser.parse_args(argv)
    if (options.model is None) == (not options.common_shapes):
        parser.error("give either a model or --common-shapes")
    if options.modelled and options.rpc:
        parser.error("--modelled is for tuning without the board of --rpc")
    if options.model and not Path(options.model).exists():
        raise Error(f"{options.model} does not exist; give an exported .pt2 or an artefact")
    from gq_tvm import targets
    from gq_tvm.schedules import family
    from gq_tvm.tuning.common import common_products

    if options.kernel != "auto":
        family(options.kernel)
    threads = options.threads
    if options.common_shapes:
        target = targets.get(options.target or "native")
        products = common_products(options.activation or "int8")
    elif Path(options.model).is_dir():
        from gq_tvm.runtime.artefact.folder import read

        manifest, plan = read(options.model)
        target = targets.get(options.target or manifest.target)
        products = products_of(plan)
        threads = threads or (1 if options.modelled else manifest.threads)
    else:
        from gq_tvm.build import products as read_products

        target = targets.get(options.target or "native")
        products = read_products(options.model, options.activation)
    results = tune_products(
        products,
        target,
        options.trials,
        kernel=options.kernel,
        threads=threads or 1,
        rpc=options.rpc,
        database=Path(options.database) if options.database else None,
        jobs=options.jobs,
        modelled=options.modelled,
    )
    return 0 if results is not None else 130


def tune_products(
    products: list[Product],
    target: Target,
    trials: int,
    kernel: str = "auto",
    threads: int = 1,
    rpc: str | None = None,
    database: Path | None = None,
    jobs: int | None = None,
    modelled: bool = False,
) -> list[Tuned] | None:
    """Tune products and report on standard error.

    Args:
        products: Of a model's layers.
        target: What they are compiled for.
        trials: Schedules to try for each product and family.
        kernel: A family's name, or ``"auto"``.
        threads: Threads the kernels will run on.
        rpc: HOST:PORT of a board that runs them; None is this machine.
        database: Where the results go; None is the user's in the cache.
        jobs: Kernels to build at once; None is one a CPU, on a board one.
        modelled: Model the times instead (`gq_tvm.modelled`).

    Returns:
        What was found; None if the user stopped it.

    Raises:
        Error: the target does not run there, or there is nothing to tune.
    """
    from gq_tvm.schedules.choosing.chooser import Chooser
    from gq_tvm.schedules.choosing.database import load, user_path
    from gq_tvm.tuning.pool import Pool
    from gq_tvm.tuning.progress import Progress
    from gq_tvm.tuning.tuner import tasks_for, tune

    if not products:
        raise Error("the model has no product with a weight in a codebook; nothing is to be tuned")
    path = database or user_path(target)
    chooser = Chooser(target, load(target, path), threads)
    tasks = tasks_for(products, chooser, kernel)
    progress = Progress()
    for product in dict.fromkeys(products):
        if not any(task.product == product for task in tasks):
            what = f"{product.sizes}, {product.bits} bits, activation {product.activation}"
            progress.say(f"{what}: no kernel has several schedules; it stays as it is")
    model = ""
    if modelled:
        cpu, model = _prepare_model(target, threads, progress)
        tasks = _unmeasured(tasks, chooser, progress)
    else:
        cpu = _check_device(target, rpc)
    jobs = jobs or (1 if rpc else min(os.cpu_count() or 1, 4))
    with closing(Pool(jobs, threads, rpc, progress.say, modelled)) as pool:
        results = tune(tasks, trials, path, cpu, pool, progress, model)
    if path.exists():
        progress.say(f"schedules in {path}")
    return None if progress.stopped else results


def products_of(plan: Plan) -> list[Product]:
    """The products of a compiled model, as `gq_tvm.build.products` finds them in its source."""
    from gq_tvm.schedules import Product

    found = []
    for one in plan.uses:
        if one.use:
            n, k = one.shape
            found.append(Product(n=n, k=k, bits=one.bits, **vars(one.use)))
    return found


def _unmeasured(tasks: list[Task], chooser: Chooser, progress: Progress) -> list[Task]:
    """The tasks but those whose very product was measured: no modelled time replaces that."""
    from gq_tvm.schedules import family

    kept = []
    for task in tasks:
        found = chooser.find(family(task.family), task.product)
        if found is not None and found.exact and not found.modelled:
            progress.say(f"{task}: measured before, which modelled times do not replace")
        else:
            kept.append(task)
    return kept


def _check_device(target: Target, rpc: str | None) -> str:
    """Refuse a device that cannot run the target or has no clock; return what its CPU is called."""
    from gq_tvm.runtime.devices.device import RpcDevice, connect
    from gq_tvm.targets import native

    with connect(rpc) as device:
        missing = sorted(target.features - device.features)
        if device.machine != target.machine or missing:
            lacks = f"lacks {', '.join(missing)}" if missing else f"is {device.machine}"
            raise Error(
                f"{device.name} {lacks} and cannot run {target.name}; tune on a board of that "
                "kind with --rpc HOST:PORT, or without one with --modelled"
            )
        if not isinstance(device, RpcDevice):
            return native.name()
        check_clock(device)
        return device.probed.name


def _prepare_model(target: Target, threads: int, progress: Progress) -> tuple[str, str]:
    """Set up the tools; return what modelled times are called, and the key of the model.

    Raises `Error` if there is no model of the target, or of several threads.
    """
    from gq_tvm.modelled import times, tools
    from gq_tvm.schedules.choosing.database import MODELLED

    times.check(target)
    if threads > 1:
        raise Error("times on several threads cannot be modelled; leave --threads out")
    tools.setup(target.machine, progress=progress.say)
    progress.say(f"times of {target.name} are modelled, not measured")
    return f"{MODELLED}{target.name}", times.key(target)


def check_clock(device: RpcDevice) -> None:
    """Refuse an emulated device. Raises `Error`."""
    if device.probed.emulated:
        raise Error(
            f"{device.name} is an emulator, whose times say nothing about a board; tune on a "
            "board, where `python -m gq_tvm.device --board` brings the server, or use --modelled"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gq_tvm.tune",
        description="Find the fastest schedules for the layers of a model.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="an exported .pt2, or a folder compile wrote"
    )
    parser.add_argument(
        "--trials",
        type=positive,
        default=TRIALS,
        metavar="N",
        help="schedules to try for each product and kernel family (%(default)s, which is all there "
        "are today)",
    )
    parser.add_argument(
        "--target", metavar="NAME", help="what to tune for (default: the artefact's, or this CPU)"
    )
    parser.add_argument("--rpc", metavar="HOST:PORT", help="run on a board (see gq_tvm.device)")
    parser.add_argument(
        "--modelled", action="store_true", help="model the times of a device that is not at hand"
    )
    parser.add_argument(
        "--kernel", default="auto", metavar="NAME", help="one kernel family (default: every exact)"
    )
    parser.add_argument(
        "--activation", choices=ACTIVATIONS, help="of a .pt2 (default: as it was trained)"
    )
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="of the kernels (the artefact's, or 1)"
    )
    parser.add_argument(
        "--database", metavar="FILE", help="where schedules are kept (default: in the cache)"
    )
    parser.add_argument(
        "--jobs", type=positive, metavar="N", help="kernels to build at once (default: a CPU each)"
    )
    parser.add_argument(
        "--common-shapes", action="store_true", help="tune the shapes the shipped database has"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
