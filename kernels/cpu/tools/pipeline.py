"""How Numba's compiler is run for kernels: machine code is made of whole kernels, not of the functions that they call.

As Numba comes, every function that a kernel calls gets wrappers for Python and for C, and is made machine code of, before its
code becomes part of its callers; so is the body of every parallel loop, twice. Nobody ever calls any of that. Here these
functions are typed, lowered and, if they are ours, optimized as ever, so that the code of a kernel stays what it was, but only
the kernel gets a wrapper and becomes machine code.
"""

import llvmlite.binding as llvm
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder

from minigrad.kernels.build.garbage import left_lying


class NumbaLibrary(JITCodeLibrary):
    """The code of one of Numba's functions: only ever part of others, so nothing is made of it by itself."""

    def _optimize_functions(self, module):
        """Numba's first passes, which go over each function by itself."""
        passes, builder = self._codegen._function_pass_manager()
        for function in module.functions:
            if not function.is_declaration:
                passes.run(function, builder)

    def link(self):
        """Take in the code of what it calls."""
        self._raise_if_finalized()
        for library in dict.fromkeys(self._linking_libraries):
            self._reload_init.update(library._reload_init)
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)

    def finalize(self):
        """No more code comes."""
        self.link()
        self._finalized = True

    def get_pointer_to_function(self, name):
        """Address 0, which is Numba's word for no machine code."""
        return 0

    @property
    def codegen(self):
        """Whom Numba tells where the function's environment is, which is for objects of Python."""
        return self

    def set_env(self, name, environment):
        """Nobody asks for it: kernels have no objects of Python."""


class PartLibrary(NumbaLibrary):
    """The code of one of our functions that kernels call: optimized, as its callers are afterwards."""

    def finalize(self):
        """Link and optimize."""
        self.link()
        self._optimize_final_module()
        self._finalized = True


class KernelLibrary(NumbaLibrary):
    """The code of a kernel and of all functions that it calls."""

    codegen = JITCodeLibrary.codegen
    get_pointer_to_function = JITCodeLibrary.get_pointer_to_function

    def finalize(self):
        """Link, optimize, and make machine code."""
        self.link()
        self._optimize_final_module()
        self._final_module.verify()
        self._finalize_final_module()

    def _get_module_for_linking(self):
        """What is kept on disk beside the machine code: which functions there are, for Numba to find them in it."""
        names = [function.name for function in self._final_module.functions if not function.is_declaration]
        return llvm.parse_assembly("\n".join(f'define void @"{name}"() {{ ret void }}' for name in names))


class PartCompiler(CompilerBase):
    """Compiles a function that kernels call, up to LLVM's code for it."""

    library_class = PartLibrary

    def __init__(self, *arguments):
        super().__init__(*arguments)
        flags = self.state.flags
        flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True

    def define_pipelines(self):
        """Numba's own passes."""
        state = self.state
        state.library = self.library_class(state.targetctx.codegen(), state.func_id.func_qualname)
        return [DefaultPassBuilder.define_nopython_pipeline(state)]

    def compile_extra(self, function):
        """What Numba's dispatcher keeps of a compiled function."""
        return self.entered(super().compile_extra(function))

    def entered(self, result):
        """The result, as one that other functions may call."""
        context = self.state.targetctx
        entry_point = context.get_executable(result.library, result.fndesc, result.environment)
        context.insert_user_function(entry_point, result.fndesc, [result.library])
        return result._replace(entry_point=entry_point)


class KernelCompiler(PartCompiler):
    """Compiles a kernel: with a wrapper for Python, and as machine code."""

    library_class = KernelLibrary

    def compile_extra(self, function):
        """The compiled kernel."""
        codegen = self.state.targetctx.codegen()
        codegen._library_class, usual = NumbaLibrary, codegen._library_class
        try:
            with left_lying():
                result = CompilerBase.compile_extra(self, function)
        finally:
            codegen._library_class = usual
        context, library = self.state.targetctx, result.library
        library.enable_object_caching()
        with context.push_code_library(library):
            context.create_cpython_wrapper(
                library, result.fndesc, result.environment, result.call_helper, release_gil=True
            )
        return self.entered(result)
