"""The elementwise laws of the stream as a CUDA kernel in Triton, with the bits of the reference.

``docs/stream.md`` specifies them; constants are filled by torch. Everything is ``+ - *`` and square
roots of float32, rounded to nearest even, and integers; no number is a NaN. Nothing may be fused:
without ``enable_fp_fusion=False`` a launch has other bits. :mod:`initium._fill.cuda` launches it;
this module needs Triton, and is imported when the first CUDA tensor is filled.

A position is a *quad* or an element. A quad is the four elements of one counter, side by side in
memory: a thread draws their words once and writes them with one store of four numbers. Neighbouring
threads write neighbouring quads, so that the stores of a warp are whole cache lines. Joining the
four planes of numbers costs nothing, as a thread holds all of them. Single elements, each of which
draws the words of its counter again, are for everything that is not made of quads.
"""

from __future__ import annotations

import triton
import triton.language as tl

from initium.stream import native

__all__ = ["fill"]

NORMAL = tl.constexpr(native.NORMAL)
UNIFORM = tl.constexpr(native.UNIFORM)


@triton.jit
def _signed(words):
    return words.to(tl.int32, bitcast=True).to(tl.float32)


@triton.jit
def _bits(x):
    return x.to(tl.uint32, bitcast=True)


@triton.jit
def _float(bits):
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _words(counter, k0, k1, c2, c3):
    """The four words of each counter; the products are 64 bits wide, one instruction each."""
    x0, x1 = counter.to(tl.uint32), (counter >> 32).to(tl.uint32)
    x2, x3 = c2.to(tl.uint32, bitcast=True), c3.to(tl.uint32, bitcast=True)
    k0, k1 = k0.to(tl.uint32, bitcast=True), k1.to(tl.uint32, bitcast=True)
    for _ in tl.static_range(10):
        p0 = x0.to(tl.uint64) * 0xD2511F53
        p1 = x2.to(tl.uint64) * 0xCD9E8D57
        x0, x1 = (p1 >> 32).to(tl.uint32) ^ x1 ^ k0, p1.to(tl.uint32)
        x2, x3 = (p0 >> 32).to(tl.uint32) ^ x3 ^ k1, p0.to(tl.uint32)
        k0, k1 = k0 + 0x9E3779B9, k1 + 0xBB67AE85
    return x0, x1, x2, x3


@triton.jit
def _log(x, EXPONENT: tl.constexpr):
    b = _bits(x) - (0x3F3504F3 - EXPONENT * 0x800000)
    e = (b.to(tl.int32, bitcast=True) >> 23).to(tl.float32)
    f = _float((b & 0x7FFFFF) + 0x3F3504F3) - 1.0
    p = f * 0.087400086 + -0.14309664
    p = p * f + 0.1491682
    p = p * f + -0.16570048
    p = p * f + 0.19962156
    p = p * f + -0.25001785
    p = p * f + 0.33333948
    p = p * f + -0.4999999
    return e * 0.69314718 + ((f * f) * p + f)


@triton.jit
def _box_muller(a, b):
    r = tl.sqrt_rn(_log(_signed(a >> 1) + 0.5, -31) * -2.0)
    t = _signed(b << 2) * 4.656612873077393e-10
    q = t * t
    s = q * -3.6585836e-05 + 0.0024909873
    s = s * q + -0.08074582
    s = (s * q + 0.7853982) * t
    c = q * -0.0003191869 + 0.015850438
    c = c * q + -0.3084245
    c = _float(_bits(c * q + 1.0) ^ (b & 0x80000000))
    swap = (b & 0x40000000) != 0
    return r * tl.where(swap, s, c), r * tl.where(swap, c, s)


@triton.jit
def _step(p, t, central, CENTRE: tl.constexpr, TAIL: tl.constexpr, TAILED: tl.constexpr):
    if TAILED:
        return p * t + tl.where(central, CENTRE, TAIL)
    else:
        return p * t + CENTRE


@triton.jit
def _quantile(point, TAILED: tl.constexpr):
    """Without the tail: for points of which none reaches w = 5, where its polynomial begins."""
    y = point ^ 0x80000000
    g = (y.to(tl.int32, bitcast=True) >> 31).to(tl.uint32, bitcast=True)
    rest = (y ^ g) & 0x7FFFFFFF
    d = (_signed(rest ^ 0x7FFFFFFF) + 0.5) * 4.656612873077393e-10
    w = 0.0 - _log(d * (2.0 - d), 0)
    x = (_signed(rest) + 0.5) * 4.656612873077393e-10
    central = w < 5.0
    if TAILED:
        t = tl.where(central, w - 2.5, tl.sqrt_rn(w) - 3.5)
        p = tl.where(central, 0.0, 5.376954e-05)
    else:
        t = w - 2.5
        p = t * 0.0
    p = _step(p, t, central, 4.12003e-08, 2.1315127e-05, TAILED)
    p = _step(p, t, central, 4.9179647e-07, -0.0004313643, TAILED)
    p = _step(p, t, central, -5.0020117e-06, 0.00072857627, TAILED)
    p = _step(p, t, central, -6.2870877e-06, -0.0008701998, TAILED)
    p = _step(p, t, central, 0.00030920486, 0.001483874, TAILED)
    p = _step(p, t, central, -0.0017727552, -0.0029469836, TAILED)
    p = _step(p, t, central, -0.0059082857, 0.0046456284, TAILED)
    p = _step(p, t, central, 0.3488024, 1.424637, TAILED)
    p = _step(p, t, central, 2.1233137, 4.7170887, TAILED)
    return _float(_bits(p * x) ^ (g & 0x80000000))


@triton.jit
def _float8(x, MANTISSA: tl.constexpr, BIAS: tl.constexpr, LARGEST: tl.constexpr):
    SHIFT: tl.constexpr = 23 - MANTISSA
    MAGIC: tl.constexpr = 127 + 24 - BIAS - MANTISSA  # the exponent of a number to add
    bits = _bits(x)
    size = _float(bits & 0x7FFFFFFF)
    size = tl.where(size > LARGEST, LARGEST, size)
    b = _bits(size)
    normal = ((b + ((1 << (SHIFT - 1)) - 1) + ((b >> SHIFT) & 1)) >> SHIFT) - (
        (127 - BIAS) << MANTISSA
    )
    subnormal = _bits(size + 2.0 ** (MAGIC - 127)) - (MAGIC << 23)
    code = tl.where(size < 2.0 ** (1 - BIAS), subnormal, normal)
    return (code | ((bits >> 24) & 0x80)).to(tl.uint8)


@triton.jit
def _rounded(x, TYPE: tl.constexpr):
    if TYPE == "float64":
        return x.to(tl.float64)
    elif TYPE == "float16":
        return x.to(tl.float16)
    elif TYPE == "bfloat16":  # not by `to`, which Triton's interpreter does not round to even
        b = _bits(x)
        return ((b + 0x7FFF + ((b >> 16) & 1)) >> 16).to(tl.int16)
    elif TYPE == "float8_e4m3fn":
        return _float8(x, 3, 7, 448.0)
    elif TYPE == "float8_e5m2":
        return _float8(x, 2, 15, 57344.0)
    else:
        return x


@triton.jit
def _number(z, scale, shift, least, most, SHIFTED: tl.constexpr, CLAMPED: tl.constexpr):
    x = z * scale
    if SHIFTED:
        x = x + shift
    if CLAMPED:
        x = tl.where(x < least, least, x)
        x = tl.where(x > most, most, x)
    return x


@triton.jit
def _uniform_or_truncated(
    w, first, count, KIND: tl.constexpr, WHOLE: tl.constexpr, TAILED: tl.constexpr
):
    if KIND == UNIFORM:
        return _signed(w) * 4.656612873077393e-10
    else:
        if not WHOLE:
            points = w.to(tl.uint64) * count.to(tl.uint32, bitcast=True).to(tl.uint64)
            w = (points >> 32).to(tl.uint32) + first.to(tl.uint32, bitcast=True)
        return _quantile(w, TAILED)


_SCALARS = (
    *("total", "size0", "size1", "element", "step0", "step1", "step2"),
    *("stride0", "stride1", "stride2", "k0", "k1", "c2", "c3", "first", "count"),
    *("scale", "shift", "least", "most"),
)


@triton.jit(do_not_specialize=_SCALARS)
def fill(
    out,
    total: tl.int64,
    size0: tl.int32,
    size1: tl.int32,
    element: tl.int64,
    step0: tl.int64,
    step1: tl.int64,
    step2: tl.int64,
    stride0: tl.int64,
    stride1: tl.int64,
    stride2: tl.int64,
    k0: tl.int32,
    k1: tl.int32,
    c2: tl.int32,
    c3: tl.int32,
    first: tl.int32,
    count: tl.int32,
    scale: tl.float32,
    shift: tl.float32,
    least: tl.float32,
    most: tl.float32,
    AXES: tl.constexpr,
    QUADS: tl.constexpr,
    TYPE: tl.constexpr,
    KIND: tl.constexpr,
    SHIFTED: tl.constexpr,
    CLAMPED: tl.constexpr,
    WHOLE: tl.constexpr,
    TAILED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Fill ``total`` positions of a grid of one to three axes, axis 0 the innermost.

    A position adds its steps to ``element`` and its strides to the place in memory. With ``QUADS``
    all of these count in fours: ``element`` is a counter, and axis 0 are neighbours.
    """
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < total
    if AXES == 1:
        index = element + place * step0
        offset = place * stride0
    else:
        place = place.to(tl.int32)
        i0, rest = place % size0, place // size0
        index = element + i0.to(tl.int64) * step0
        offset = i0.to(tl.int64) * stride0
        if AXES == 2:
            index += rest.to(tl.int64) * step1
            offset += rest.to(tl.int64) * stride1
        else:
            i1, i2 = (rest % size1).to(tl.int64), (rest // size1).to(tl.int64)
            index += i1 * step1 + i2 * step2
            offset += i1 * stride1 + i2 * stride2
    index = index.to(tl.uint64, bitcast=True)
    if QUADS:
        a, b, c, d = _words(index, k0, k1, c2, c3)
        if KIND == NORMAL:
            z0, z1 = _box_muller(a, b)
            z2, z3 = _box_muller(c, d)
        else:
            z0 = _uniform_or_truncated(a, first, count, KIND, WHOLE, TAILED)
            z1 = _uniform_or_truncated(b, first, count, KIND, WHOLE, TAILED)
            z2 = _uniform_or_truncated(c, first, count, KIND, WHOLE, TAILED)
            z3 = _uniform_or_truncated(d, first, count, KIND, WHOLE, TAILED)
        z = tl.join(tl.join(z0, z2), tl.join(z1, z3)).reshape([BLOCK, 4])
        where = (offset * 4)[:, None] + tl.arange(0, 4)[None, :]
        inside = tl.broadcast_to(inside[:, None], [BLOCK, 4])
    else:
        a, b, c, d = _words(index >> 2, k0, k1, c2, c3)
        upper, odd = (index & 2) != 0, (index & 1) != 0
        if KIND == NORMAL:
            x, y = _box_muller(tl.where(upper, c, a), tl.where(upper, d, b))
            z = tl.where(odd, y, x)
        else:
            w = tl.where(odd, tl.where(upper, d, b), tl.where(upper, c, a))
            z = _uniform_or_truncated(w, first, count, KIND, WHOLE, TAILED)
        where = offset
    x = _number(z, scale, shift, least, most, SHIFTED, CLAMPED)
    tl.store(out + where, _rounded(x, TYPE), mask=inside)
