"""How many threads kernels run on that TVM calls in this process.

TVM keeps a pool of workers for each thread that calls, made when that thread first needs it; a
call runs on the calling thread and as many workers as it was told to use. What TVM does unasked is
no manners for a library: it binds the calling thread and the workers to certain CPUs for good, and
lets workers spin for about 0.1 s after each call. Here every thread may run on every CPU the caller
may, and a worker sleeps soon after the last kernel.
"""

from __future__ import annotations

import os
import threading

import tvm

#: Variable that TVM reads once, when it makes its first worker: times a worker looks for work, with
#: a ``sched_yield`` between, before it sleeps. A user's own value is kept.
SPIN_VARIABLE = "TVM_THREAD_POOL_SPIN_COUNT"
#: About half a millisecond: longer than the serial stretches between the kernels of a call, so that
#: only the first of them pays for waking a worker (10 us and more), and little for an idle process.
SPINS = 2000

_configure = tvm.get_global_func("runtime.config_threadpool")
_SHARE_ALL = -3  # tvm/src/runtime/threading_backend.h, kSpecifyThreadShareAllCore


class _Caller(threading.local):
    """What a thread's pool was told last.

    Attributes:
        count: Threads its calls run on; 0 where it has no pool.
        forked: The pool was made before this process was forked off: its workers are not here.
    """

    count = 0
    forked = False


_caller = _Caller()


def use(count: int) -> None:
    """Let kernels that the calling thread runs from now on use ``count`` threads, itself included.

    More than the CPUs this thread may run on are taken for as many as these. In a thread that lives
    on in a forked process there are no workers: it computes alone.
    """
    if _caller.count != count:
        cpus = [str(cpu) for cpu in sorted(os.sched_getaffinity(0))]
        os.environ.setdefault(SPIN_VARIABLE, str(SPINS))
        _configure(_SHARE_ALL, 1 if _caller.forked else min(count, len(cpus)), cpus)
        _caller.count = count


def _after_fork() -> None:
    if _caller.count:
        _caller.count, _caller.forked = 0, True


os.register_at_fork(after_in_child=_after_fork)
