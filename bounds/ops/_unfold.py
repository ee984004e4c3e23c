"""Convolution in float64 on a CPU as matrix products: the library has no fast kernel for that type.

Windows are copied, a cache-sized piece at a time, from an image whose channels lie next to each other, so a copied
run is a whole window line. The product has the long axis last, which the BLAS runs about twice as fast. Sums are
plain inner products (no Winograd, no FFT), so the error bound ``gamma_n |W| |x|`` holds.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# Elements of the copied windows that are multiplied at once: about 2 MB, between the second and third cache level.
PIECE = 1 << 18

Pair = Sequence[int]


def convolve(
    x: Tensor, weight: Tensor, strides: Pair, pads: Sequence[int], dilations: Pair, narrow: Pair
) -> Tensor:
    """``[n, channels, H, W]`` to ``[n, filters, *narrow]``.

    ``pads`` are (top, bottom, left, right); negative ones crop. ``weight`` is ``[filters, channels, kh, kw]``.
    """
    kernel = weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1)
    image = _channels_last(x, pads)
    return _windows_times(image, kernel, weight.shape[2:], strides, dilations, narrow)


def _channels_last(x: Tensor, pads: Sequence[int]) -> Tensor:
    """A padded, contiguous copy ``[n, H', W', channels]``."""
    top, bottom, left, right = pads
    n, channels, height, width = x.shape
    if not any(pads):
        return x.permute(0, 2, 3, 1).contiguous()
    if min(pads) < 0:
        return F.pad(x.permute(0, 2, 3, 1), (0, 0, left, right, top, bottom)).contiguous()
    image = x.new_zeros(n, height + top + bottom, width + left + right, channels)
    image[:, top : top + height, left : left + width] = x.permute(0, 2, 3, 1)
    return image


def _windows_times(
    image: Tensor, kernel: Tensor, size: Pair, strides: Pair, dilations: Pair, narrow: Pair
) -> Tensor:
    """Products of ``kernel [filters, kh kw channels]`` with the windows of ``image [n, H, W, channels]``."""
    n, _, _, channels = image.shape
    filters, (high, wide) = kernel.shape[0], narrow
    first, second, third, _ = image.stride()
    if dilations[1] == 1:
        taps: tuple[int, ...] = (size[0], size[1] * channels)
        steps: tuple[int, ...] = (dilations[0] * second, 1)
    else:
        taps, steps = (*size, channels), (dilations[0] * second, dilations[1] * third, 1)
    views = image.as_strided((n, high, wide, *taps), (first, strides[0] * second, strides[1] * third, *steps))
    result = image.new_empty(n, filters, high * wide)
    piece = max(1, min(n, PIECE // max(1, high * wide * kernel.shape[1])))
    copied = image.new_empty(piece, high, wide, *taps)
    for start in range(0, n, piece):
        count = min(piece, n - start)
        part = copied[:count]
        part.copy_(views[start : start + count])
        product = torch.mm(kernel, part.view(count * high * wide, -1).T)
        result[start : start + count] = product.view(filters, count, high * wide).transpose(0, 1)
    return result.view(n, filters, high, wide)


def spread(a: Tensor, weight: Tensor, strides: Pair, begin: Pair, dilations: Pair, wide: Pair) -> Tensor:
    """The transpose: ``[n, filters, h, w]`` to ``[n, channels, *wide]``, weight ``[filters, channels, kh, kw]``.

    Wide position y takes narrow position o through tap i where ``y = o stride - begin + i dilation``.
    """
    if 2 * weight.shape[1] <= weight.shape[0] or max(dilations) > 1:
        return _products_added(a, weight, strides, begin, dilations, wide)
    return _by_residues(a, weight, strides, begin, wide)


def _products_added(
    a: Tensor, weight: Tensor, strides: Pair, begin: Pair, dilations: Pair, wide: Pair
) -> Tensor:
    """Few channels: multiply first, then add each tap's product where it belongs."""
    n, filters, high, low = a.shape
    channels, size = weight.shape[1], weight.shape[2:]
    spans = [
        (extent - 1) * s + d * (k - 1) + 1
        for extent, s, d, k in zip((high, low), strides, dilations, size, strict=True)
    ]
    # Room for all taps, so that every tap adds whole images.
    room = [max(span, w + b) for span, w, b in zip(spans, wide, begin, strict=False)]
    kernel = weight.permute(2, 3, 1, 0).reshape(-1, filters)
    result = a.new_zeros(n, *room, channels)
    piece = max(1, min(n, PIECE // max(1, high * low * kernel.shape[0])))
    for start in range(0, n, piece):
        part = a[start : start + piece]
        count = part.shape[0]
        product = torch.mm(kernel, part.transpose(0, 1).reshape(filters, -1))
        product = product.view(*size, channels, count, high, low).permute(0, 1, 3, 4, 5, 2)
        target = result[start : start + count]
        for i in range(size[0]):
            rows = slice(i * dilations[0], i * dilations[0] + (high - 1) * strides[0] + 1, strides[0])
            for j in range(size[1]):
                columns = slice(j * dilations[1], j * dilations[1] + (low - 1) * strides[1] + 1, strides[1])
                target[:, rows, columns] += product[i, j]
    window = result[:, begin[0] : begin[0] + wide[0], begin[1] : begin[1] + wide[1]]
    return window.permute(0, 3, 1, 2).contiguous()


def _by_residues(a: Tensor, weight: Tensor, strides: Pair, begin: Pair, wide: Pair) -> Tensor:
    """Positions with one residue modulo the stride read the same taps: a convolution of stride 1 for each residue."""
    n, _, high, low = a.shape
    result = a.new_zeros(n, weight.shape[1], *wide)
    for row in range(min(strides[0], wide[0])):
        for column in range(min(strides[1], wide[1])):
            phases = [(y + b) % s for y, b, s in zip((row, column), begin, strides, strict=False)]
            taps = weight[:, :, phases[0] :: strides[0], phases[1] :: strides[1]]
            if taps.numel() == 0:
                continue
            target = result[:, :, row :: strides[0], column :: strides[1]]
            # y = s q + phase - begin, and q = o + tap: window of output q reads o = q - tap.
            firsts = [(y + b) // s for y, b, s in zip((row, column), begin, strides, strict=False)]
            pads = []
            for first, extent, size, count in zip(firsts, (high, low), taps.shape[2:], target.shape[2:], strict=False):
                before = size - 1 - first
                pads += [before, first + count - extent]
            kernel = taps.flip(2, 3).permute(1, 2, 3, 0).reshape(taps.shape[1], -1)
            image = _channels_last(a, pads)
            target.copy_(_windows_times(image, kernel, taps.shape[2:], (1, 1), (1, 1), target.shape[2:]))
    return result


# ------------------------------------------------------------------------ channels last, any element type


def is_last(a: Tensor) -> bool:
    """Whether an ``[n, channels, h, w]`` stores its channels next to each other (and not its rows)."""
    return a.stride(1) == 1 and a.shape[2] * a.shape[3] > 1 and a.is_contiguous(memory_format=torch.channels_last)


def phased_kernel(weight: Tensor, strides: Pair) -> Tensor:
    """The kernel ``[sy sx channels, filters, ty, tx]`` of all residues of a strided transpose: ``spread_phased``."""
    filters, channels, *size = weight.shape
    taps = [-(-k // s) for k, s in zip(size, strides, strict=True)]
    rest = [t * s - k for t, s, k in zip(taps, strides, size, strict=True)]
    padded = F.pad(weight, (0, rest[1], 0, rest[0]))
    split = padded.view(filters, channels, taps[0], strides[0], taps[1], strides[1]).permute(3, 5, 1, 0, 2, 4)
    kernel = split.reshape(strides[0] * strides[1] * channels, filters, *taps).flip(2, 3)
    return kernel.contiguous(memory_format=torch.channels_last)


def spread_phased(a: Tensor, kernel: Tensor, strides: Pair, begin: Pair, wide: Pair) -> Tensor:
    """``spread`` as one convolution of stride 1 whose channels hold the residues, put in their places afterwards.

    Pays for few channels, or where the stride divides the kernel.
    """
    channels = kernel.shape[0] // (strides[0] * strides[1])
    first = [b // s for b, s in zip(begin, strides, strict=True)]
    stop = [-(-(b + w) // s) for b, w, s in zip(begin, wide, strides, strict=True)]
    before = [t - 1 - q for t, q in zip(kernel.shape[2:], first, strict=True)]
    after = [q - n for q, n in zip(stop, a.shape[2:], strict=True)]
    if before == after and min(before) >= 0:
        y = F.conv2d(a, kernel, None, 1, tuple(before))
    else:
        y = F.conv2d(F.pad(a, (before[1], after[1], before[0], after[0])), kernel)
    rows, columns = y.shape[2:]
    y = y.permute(0, 2, 3, 1).reshape(a.shape[0], rows, columns, *strides, channels).permute(0, 1, 3, 2, 4, 5)
    y = y.reshape(a.shape[0], rows * strides[0], columns * strides[1], channels)
    top, left = (b - s * q for b, s, q in zip(begin, strides, first, strict=True))
    return y[:, top : top + wide[0], left : left + wide[1]].permute(0, 3, 1, 2)


def spread_points(a: Tensor, matrix: Tensor, strides: Pair, begin: Pair, wide: Pair) -> Tensor:
    """``spread`` of a kernel of one position: ``matrix [filters, channels]``."""
    n, filters, high, low = a.shape
    product = torch.mm(a.permute(0, 2, 3, 1).reshape(-1, filters), matrix).view(n, high, low, -1)
    room = [max((e - 1) * s + 1, w + b) for e, s, w, b in zip((high, low), strides, wide, begin, strict=True)]
    result = a.new_zeros(n, *room, matrix.shape[1])
    result[:, : (high - 1) * strides[0] + 1 : strides[0], : (low - 1) * strides[1] + 1 : strides[1]] = product
    return result[:, begin[0] : begin[0] + wide[0], begin[1] : begin[1] + wide[1]].permute(0, 3, 1, 2)
