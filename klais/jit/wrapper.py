"""The function that Python calls for each kernel of a library: it checks and unpacks arguments, and returns the result.

numba makes such a wrapper too, but that one needs numba's own helpers at run time. This one needs CPython's stable
functions and the layout of numpy's array object (part of numpy's binary interface): it reads the address of an array's
data and never keeps it, because kernels only borrow.

A wrapper has the calling convention ``METH_FASTCALL``. The ``PyMethodDef`` from which Python creates a function has the
symbol ``method.NAME``; ``types.NAME`` is an array that the process fills with addresses of Python objects: numpy's
array type, then the data type of each column in the arguments.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils
from numba.core import types as numba_types

types: Any = numba_types
_BYTE, _INT, _WORD = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_POINTER = _BYTE.as_pointer()
_NULL = ir.Constant(_POINTER, None)
_METH_FASTCALL = 0x80
_C_CONTIGUOUS, _ALIGNED, _WRITEABLE = 0x1, 0x100, 0x400  # NPY_ARRAY_...
# Offsets of the fields of PyArrayObject (numpy/core/include/numpy/ndarraytypes.h).
_DATA, _SHAPE, _STRIDES = 16, 32, 40

# Replacements of numba's own helpers: ldexp, and memory that a kernel allocates and frees. That begins with a MemInfo
# of numba, of 48 bytes: the reference count first, the address of the data at 24, its size at 32.
HELPERS = """
declare double @ldexp(double, i32)

define double @numba_ldexp(double %x, i32 %exponent) {
  %y = call double @ldexp(double %x, i32 %exponent)
  ret double %y
}

declare i32 @PyType_IsSubtype(ptr, ptr)
declare i32 @PyObject_RichCompareBool(ptr, ptr, i32)

declare ptr @malloc(i64)
declare void @free(ptr)

define ptr @NRT_MemInfo_alloc_aligned(i64 %size, i32 %align) {
  %wide = zext i32 %align to i64
  %more = add i64 %wide, 48
  %all = add i64 %size, %more
  %info = call ptr @malloc(i64 %all)
  %none = icmp eq ptr %info, null
  br i1 %none, label %failed, label %got
got:
  call void @llvm.memset.p0.i64(ptr %info, i8 0, i64 48, i1 false)
  store i64 1, ptr %info
  %address = ptrtoint ptr %info to i64
  %behind = add i64 %address, %more
  %beyond = urem i64 %behind, %wide
  %aligned = sub i64 %behind, %beyond
  %data = inttoptr i64 %aligned to ptr
  %data_at = getelementptr i8, ptr %info, i64 24
  store ptr %data, ptr %data_at
  %size_at = getelementptr i8, ptr %info, i64 32
  store i64 %size, ptr %size_at
  ret ptr %info
failed:
  ret ptr null
}

declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)

define void @NRT_MemInfo_call_dtor(ptr %info) {
  call void @free(ptr %info)
  ret void
}

define i32 @klais_is_column(ptr %object, ptr %ndarray, ptr %dtype, i32 %dimensions, i32 %flags) {
entry:
  %type_at = getelementptr i8, ptr %object, i64 8
  %type = load ptr, ptr %type_at
  %exact = icmp eq ptr %type, %ndarray
  br i1 %exact, label %array, label %derived
derived:
  %below = call i32 @PyType_IsSubtype(ptr %type, ptr %ndarray)
  %is = icmp ne i32 %below, 0
  br i1 %is, label %array, label %no
array:
  %nd_at = getelementptr i8, ptr %object, i64 24
  %nd = load i32, ptr %nd_at
  %right_nd = icmp eq i32 %nd, %dimensions
  %flags_at = getelementptr i8, ptr %object, i64 64
  %has = load i32, ptr %flags_at
  %common = and i32 %has, %flags
  %right_flags = icmp eq i32 %common, %flags
  %right = and i1 %right_nd, %right_flags
  br i1 %right, label %kind, label %no
kind:
  %descr_at = getelementptr i8, ptr %object, i64 56
  %descr = load ptr, ptr %descr_at
  %same = icmp eq ptr %descr, %dtype
  br i1 %same, label %yes, label %compare
compare:
  %equal = call i32 @PyObject_RichCompareBool(ptr %descr, ptr %dtype, i32 2)
  %fits = icmp eq i32 %equal, 1
  br i1 %fits, label %yes, label %no
yes:
  ret i32 1
no:
  ret i32 0
}
"""


@dataclass
class _Call:
    """A wrapper under construction."""

    context: Any
    builder: Any
    name: str
    slots: Any  # the array of addresses
    failed: Any  # the block that returns NULL
    used: int = 1  # slots in use: the first is numpy's array type
    position: int = 0  # of the argument being read

    def python(self, name: str, returns: Any, *arguments: Any, more: bool = False) -> Any:
        """Declare a function of CPython."""
        kind = ir.FunctionType(returns, arguments, var_arg=more)
        return cgutils.get_or_insert_function(self.builder.module, kind, name)

    def slot(self, number: int) -> Any:
        """Load the address in a slot."""
        place = self.builder.gep(self.slots, [_INT(0), _INT(number)], inbounds=True)
        return self.builder.load(place)

    def require(self, good: Any, complaint: str | None) -> None:
        """Continue if ``good``, else raise TypeError; None: an error is already set."""
        on = self.builder.append_basic_block()
        bad = self.builder.append_basic_block()
        self.builder.cbranch(good, on, bad)
        self.builder.position_at_end(bad)
        if complaint is not None:
            self.raise_error("PyExc_TypeError", complaint)
        self.builder.branch(self.failed)
        self.builder.position_at_end(on)

    def raise_error(self, kind: str, text: str) -> None:
        """Set a CPython exception."""
        module = self.builder.module
        known = module.globals.get(kind) or ir.GlobalVariable(module, _POINTER, kind)
        message = self.context.insert_const_string(module, text)
        self.builder.call(
            self.python("PyErr_SetString", ir.VoidType(), _POINTER, _POINTER), [self.builder.load(known), message]
        )


def add_wrapper(module: Any, context: Any, name: str, fndesc: Any) -> None:
    """Write the wrapper of one kernel, its ``PyMethodDef`` and its array of types into ``module``."""
    kind = ir.FunctionType(_POINTER, [_POINTER, _POINTER.as_pointer(), _WORD])
    function = ir.Function(module, kind, f"call.{name}")
    entry, failed = function.append_basic_block("entry"), function.append_basic_block("failed")
    builder = ir.IRBuilder(failed)
    builder.ret(_NULL)
    builder.position_at_end(entry)
    slots = 1 + sum(_count_columns(kind) for kind in fndesc.argtypes)
    array = ir.GlobalVariable(module, ir.ArrayType(_POINTER, slots), f"types.{name}")
    array.initializer = ir.Constant(array.value_type, [_NULL] * slots)
    call = _Call(context, builder, name, array, failed)
    _write_body(call, function, fndesc)
    _add_method(module, context, name, function)


def _count_columns(kind: Any) -> int:
    if isinstance(kind, types.BaseTuple):
        return sum(_count_columns(item) for item in kind.types)
    return int(isinstance(kind, types.Array))


def _add_method(module: Any, context: Any, name: str, function: Any) -> None:
    kind = ir.LiteralStructType([_POINTER, _POINTER, _INT, _POINTER])
    method = ir.GlobalVariable(module, kind, f"method.{name}")
    text = context.insert_const_string(module, name.rpartition(":")[2])
    method.initializer = ir.Constant.literal_struct(
        [text, function.bitcast(_POINTER), ir.Constant(_INT, _METH_FASTCALL), _NULL]
    )


def _write_body(call: _Call, function: Any, fndesc: Any) -> None:
    builder, context = call.builder, call.context
    me, arguments, count = function.args
    wanted = len(fndesc.argtypes)
    call.require(builder.icmp_signed("==", count, _WORD(wanted)), f"{call.name} takes {wanted} arguments")
    values = []
    for call.position, kind in enumerate(fndesc.argtypes):
        values.append(_read(call, builder.load(builder.gep(arguments, [_INT(call.position)])), kind))
    kernel = context.declare_function(builder.module, fndesc)
    state = builder.call(call.python("PyEval_SaveThread", _POINTER), [])
    status, result = context.call_conv.call_function(builder, kernel, fndesc.restype, fndesc.argtypes, values)
    builder.call(call.python("PyEval_RestoreThread", ir.VoidType(), _POINTER), [state])
    with builder.if_then(status.is_error, likely=False):
        with builder.if_then(status.is_user_exc):
            info = builder.load(status.excinfoptr)
            text, size = builder.extract_value(info, 0), builder.zext(builder.extract_value(info, 1), _WORD)
            pickled = builder.call(call.python("PyBytes_FromStringAndSize", _POINTER, _POINTER, _WORD), [text, size])
            make = call.python("PyObject_CallFunctionObjArgs", _POINTER, _POINTER, more=True)
            builder.call(make, [me, pickled, _NULL])  # it raises the exception of the kernel
            builder.call(call.python("Py_DecRef", ir.VoidType(), _POINTER), [pickled])
            builder.ret(_NULL)
        call.raise_error("PyExc_SystemError", f"the kernel {call.name} failed")
        builder.ret(_NULL)
    builder.ret(_give(call, result, fndesc.restype))


# --- arguments -------------------------------------------------------------------------------------------------------


def _read(call: _Call, item: Any, kind: Any) -> Any:
    """Convert one Python object to the value that numba's code expects."""
    if isinstance(kind, types.Array):
        return _read_column(call, item, kind)
    if isinstance(kind, types.BaseTuple):
        return _read_tuple(call, item, kind)
    return _read_scalar(call, item, kind)


def _read_column(call: _Call, item: Any, kind: Any) -> Any:
    builder, context = call.builder, call.context
    flags = _ALIGNED | (_C_CONTIGUOUS if kind.layout == "C" else 0) | (_WRITEABLE if kind.mutable else 0)
    check = call.python("klais_is_column", _INT, _POINTER, _POINTER, _POINTER, _INT, _INT)
    fits = builder.call(check, [item, call.slot(0), call.slot(call.used), _INT(kind.ndim), _INT(flags)])
    call.used += 1
    call.require(builder.icmp_signed("!=", fits, _INT(0)), f"{call.name}: argument {call.position + 1} is not {kind}")
    view = context.make_array(kind)(context, builder)
    shape = _words(builder, _field(builder, item, _SHAPE), kind.ndim)
    total = _WORD(1)
    for extent in shape:
        total = builder.mul(total, extent, flags=["nsw"])
    view.data = builder.bitcast(_field(builder, item, _DATA), view.data.type)
    view.shape = cgutils.pack_array(builder, shape)
    view.strides = cgutils.pack_array(builder, _words(builder, _field(builder, item, _STRIDES), kind.ndim))
    view.nitems = total
    view.itemsize = _WORD(context.get_abi_sizeof(context.get_data_type(kind.dtype)))
    view.meminfo = ir.Constant(view.meminfo.type, None)
    view.parent = ir.Constant(view.parent.type, None)
    return view._getvalue()


def _field(builder: Any, item: Any, offset: int) -> Any:
    place = builder.gep(item, [_WORD(offset)])
    return builder.load(builder.bitcast(place, _POINTER.as_pointer()))


def _words(builder: Any, place: Any, count: int) -> list[Any]:
    words = builder.bitcast(place, _WORD.as_pointer())
    return [builder.load(builder.gep(words, [_INT(k)])) for k in range(count)]


def _read_tuple(call: _Call, item: Any, kind: Any) -> Any:
    builder = call.builder
    size = builder.call(call.python("PyTuple_Size", _WORD, _POINTER), [item])  # -1 and SystemError for another type
    complaint = f"{call.name}: argument {call.position + 1} is not a tuple of {len(kind.types)}"
    call.require(builder.icmp_signed("==", size, _WORD(len(kind.types))), complaint)
    get = call.python("PyTuple_GetItem", _POINTER, _POINTER, _WORD)
    values = [_read(call, builder.call(get, [item, _WORD(k)]), part) for k, part in enumerate(kind.types)]
    return call.context.make_tuple(builder, kind, values)


def _read_scalar(call: _Call, item: Any, kind: Any) -> Any:
    builder = call.builder
    if isinstance(kind, types.Float):
        value = builder.call(call.python("PyFloat_AsDouble", ir.DoubleType(), _POINTER), [item])
        _require_no_error(call, builder.fcmp_ordered("==", value, ir.Constant(ir.DoubleType(), -1.0)))
        return value if kind.bitwidth == 64 else builder.fptrunc(value, ir.FloatType())
    if isinstance(kind, types.Boolean):
        truth = builder.call(call.python("PyObject_IsTrue", _INT, _POINTER), [item])
        call.require(builder.icmp_signed(">=", truth, _INT(0)), None)
        return builder.trunc(truth, ir.IntType(1))
    if not isinstance(kind, types.Integer):
        raise NotImplementedError(f"{call.name}: no argument can be {kind}")
    number = builder.call(call.python("PyNumber_Long", _POINTER, _POINTER), [item])
    call.require(builder.icmp_unsigned("!=", number, _NULL), None)
    read = "PyLong_AsLongLong" if kind.signed else "PyLong_AsUnsignedLongLong"
    value = builder.call(call.python(read, _WORD, _POINTER), [number])
    builder.call(call.python("Py_DecRef", ir.VoidType(), _POINTER), [number])
    _require_no_error(call, builder.icmp_signed("==", value, _WORD(-1)))
    return value if kind.bitwidth == 64 else builder.trunc(value, ir.IntType(kind.bitwidth))


def _require_no_error(call: _Call, suspicious: Any) -> None:
    """Check for an error only if the value is the one that signals it."""
    builder = call.builder
    ask, on = builder.append_basic_block(), builder.append_basic_block()
    builder.cbranch(suspicious, ask, on)
    builder.position_at_end(ask)
    error = builder.call(call.python("PyErr_Occurred", _POINTER), [])
    builder.cbranch(builder.icmp_unsigned("==", error, _NULL), on, call.failed)
    builder.position_at_end(on)


# --- the result ------------------------------------------------------------------------------------------------------


def _give(call: _Call, value: Any, kind: Any) -> Any:
    """Convert a value returned by numba's code to a new Python object."""
    builder = call.builder
    if isinstance(kind, types.NoneType):
        return builder.call(call.python("Py_BuildValue", _POINTER, _POINTER, more=True), [_text(call, "")])
    if isinstance(kind, types.BaseTuple):
        tuple_of = call.python("PyTuple_Pack", _POINTER, _WORD, more=True)
        items = [_give(call, builder.extract_value(value, k), item) for k, item in enumerate(kind.types)]
        made = builder.call(tuple_of, [_WORD(len(items)), *items])
        for item in items:
            builder.call(call.python("Py_DecRef", ir.VoidType(), _POINTER), [item])
        return made
    make: Callable[..., Any] = call.python
    if isinstance(kind, types.Boolean):
        return builder.call(make("PyBool_FromLong", _POINTER, _WORD), [builder.zext(value, _WORD)])
    if isinstance(kind, types.Float):
        wide = value if kind.bitwidth == 64 else builder.fpext(value, ir.DoubleType())
        return builder.call(make("PyFloat_FromDouble", _POINTER, ir.DoubleType()), [wide])
    if not isinstance(kind, types.Integer):
        raise NotImplementedError(f"{call.name}: no result can be {kind}")
    extend = builder.sext if kind.signed else builder.zext
    wide = value if kind.bitwidth == 64 else extend(value, _WORD)
    name = "PyLong_FromLongLong" if kind.signed else "PyLong_FromUnsignedLongLong"
    return builder.call(make(name, _POINTER, _WORD), [wide])


def _text(call: _Call, text: str) -> Any:
    return call.context.insert_const_string(call.builder.module, text)
