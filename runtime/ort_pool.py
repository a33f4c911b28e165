"""The threads, and the scratch memory, that all sessions of ONNX Runtime in a process share."""

from __future__ import annotations

from typing import Any

from sparsevlm_trt.runtime.errors import RunnerError
from sparsevlm_trt.runtime.threads import allowed_cpus

__all__ = ["share_pool"]

# The size of the process's thread pool, once made: ONNX Runtime has one, and cannot resize it.
_pool_threads: int | None = None


def share_pool(onnxruntime: Any, threads: int | None) -> None:
    """Make the process's pool, once; a later runner shares it.

    Args:
        onnxruntime: The module.
        threads: Its size; None: as many as this process may use, or as it has already.

    Raises:
        RunnerError: It would need another size than it has.
    """
    global _pool_threads
    if threads is not None and threads < 1:
        raise RunnerError(
            f"runner onnxruntime | got threads={threads} | expected 1 or more | "
            "leave it out to use every allowed core"
        )
    if _pool_threads is None:
        count = threads or allowed_cpus()
        try:
            onnxruntime.set_global_thread_pool_sizes(count, 1)
        except Exception:  # the application around us made one first: use that
            count = threads or 0
        _share_arena(onnxruntime)
        _pool_threads = count
    if threads not in (None, _pool_threads):
        raise RunnerError(
            f"runner onnxruntime | got threads={threads} | expected {_pool_threads}, the size of "
            "this process's pool, which ONNX Runtime cannot change | start another process"
        )


def _share_arena(onnxruntime: Any) -> None:
    """Make one arena, which sessions take with `session.use_env_allocators`.

    One of its own for each session would keep the scratch memory of each stage's longest prompt:
    2304 visual tokens on the demo model took 2.4 GB, and take 1.1 GB now.
    """
    kind, use = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, onnxruntime.OrtMemType.DEFAULT
    cpu = onnxruntime.OrtMemoryInfo("Cpu", kind, 0, use)
    try:
        # No bound, and the library's own choice of growth and chunks.
        onnxruntime.create_and_register_allocator(cpu, onnxruntime.OrtArenaCfg(0, -1, -1, -1))
    except Exception:  # the application around us made one first: sessions take that
        return
