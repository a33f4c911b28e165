"""OpenVINO as a runner: bfloat16 where the processor has it, caches kept by the engine."""
