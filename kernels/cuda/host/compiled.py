"""Kernels translated and made machine code of, for this processor, and kept on disk.

    kernel = HostKernel(ptx, "elementwise.relu", checked=False)
    kernel.address       of the function that layout.py describes
    kernel.translation   what else is to be known to run it

The folder on disk is named by a hash of the sources here, the files in it by one of the PTX and the processor.
"""

import hashlib
import json
import struct

import llvmlite.binding as llvm

from minigrad.kernels.build.cache import HOST, cache_folder, keep, kept_or_made, read, warn_once
from minigrad.kernels.build.garbage import left_lying
from minigrad.kernels.build.progress import progress
from minigrad.kernels.cuda.host import ptx
from minigrad.kernels.cuda.host.translate import Point, Translation, translate

DIGEST = 32  # bytes of the checksum with which a kept file begins


def target_machine():
    """LLVM's, for the processor that this runs on."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features().flatten()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features, opt=2, jit=True
    )


def machine_code(text, machine):
    """What LLVM makes of its code; no arithmetic is changed, for nothing allows that."""
    module = llvm.parse_assembly(text)
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_unrolling = options.loop_vectorization = options.slp_vectorization = False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return machine.emit_object(module)


class HostKernel:
    """A kernel that the host runs; its address is good as long as this is kept."""

    def __init__(self, text, name, checked, counted=False):
        self.name, self.ptx = name, text
        machine = target_machine()
        path = path_of(text, checked, counted)

        def make():
            progress.begin(f"host.{name}", ())
            with left_lying():
                translation = translate(ptx.parse(text), checked, counted)
            code = machine_code(translation.text, machine)
            progress.end(f"host.{name}")
            if path is not None:
                keep(path, as_bytes(translation, code))
            return translation, code

        self.translation, code = kept_or_made(path, lambda: kept(path), make)
        self.engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
        self.engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        self.engine.finalize_object()
        self.address = self.engine.get_function_address(self.translation.name)


def path_of(text, checked, counted=False):
    """The file of a kernel; None where nothing is kept."""
    folder = cache_folder(HOST)
    if folder is None:
        return None
    processor = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    digest = hashlib.sha256(repr((text, checked, counted, processor)).encode()).hexdigest()[:20]
    return folder / f"{digest}.host"


def as_bytes(translation, code):
    """A file: checksum | length of the description | description | machine code."""
    described = json.dumps(translation._replace(text="")).encode()
    content = struct.pack("<Q", len(described)) + described + code
    return hashlib.sha256(content).digest() + content


def kept(path):
    """(translation, machine code) in a file; None where there is none, or where it is damaged."""
    content = read(path)
    if content is None:
        return None
    digest, rest = content[:DIGEST], content[DIGEST:]
    if hashlib.sha256(rest).digest() != digest or len(rest) < 8:
        warn_once("read", f"the compiled kernel {path} is damaged; such are compiled again")
        return None
    (length,) = struct.unpack("<Q", rest[:8])
    translation = Translation(*json.loads(rest[8 : 8 + length]))
    return translation._replace(points=[Point(*point) for point in translation.points]), rest[8 + length :]
