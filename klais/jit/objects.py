"""The object file of kernels that numba compiled: their code and the functions that Python calls, nothing else."""

from typing import Any

import llvmlite.binding as llvm  # type: ignore[import-untyped]
from llvmlite import ir

from klais.jit.machine import target
from klais.jit.wrapper import HELPERS, add_wrapper


def object_code(level: str, kernels: dict[str, Any]) -> bytes:
    """The object file of these kernels, for a CPU level.

    Parameters
    ----------
    kernels : dict of str to numba's compile result
        Keyed by their names in the library.
    """
    context = next(iter(kernels.values())).target_context
    machine = _machine(level)
    whole = _wrappers(context, kernels, machine)
    for made in kernels.values():
        whole.link_in(llvm.parse_bitcode(made.library._final_module.as_bitcode()))
    for part in (*whole.functions, *whole.global_variables):
        if not part.is_declaration and not part.name.startswith(("method.", "types.", "llvm.")):
            part.linkage = "internal"
    _run(machine, whole, 0, "add_global_dead_code_eliminate_pass")
    code: bytes = machine.emit_object(whole)
    return code


def _machine(level: str) -> Any:
    cpu, features = target(level)
    triple = llvm.get_process_triple()
    return llvm.Target.from_triple(triple).create_target_machine(
        cpu=cpu, features=features, opt=3, reloc="pic", codemodel="default"
    )


def _wrappers(context: Any, kernels: dict[str, Any], machine: Any) -> Any:
    module = ir.Module("klais")
    module.triple = machine.triple
    module.data_layout = str(machine.target_data)
    for name, made in kernels.items():
        add_wrapper(module, context, name, made.fndesc)
    written = llvm.parse_assembly(str(module))
    written.link_in(llvm.parse_assembly(HELPERS))
    written.verify()
    _run(machine, written, 2)
    return written


def _run(machine: Any, module: Any, speed: int, *passes: str) -> None:
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=speed))
    manager = builder.getModulePassManager() if not passes else llvm.create_new_module_pass_manager()
    for name in passes:
        getattr(manager, name)()
    manager.run(module, builder)
