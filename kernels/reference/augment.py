"""What happens to images on their way to the network: affine maps, shifts, brightness and contrast, normalization.

    affine               y[i, r, q] = scale * images[i] at the point matrices[i] (r, q, 1)
    shift_crop           y[i, r, q] = images[i] at the pixel (r, q) + shifts[i], (r, w - 1 - q) + shifts[i] where flips[i]
    brightness_contrast  y[i] = scale * ((images[i] - mean) * contrast[i] + mean) + brightness[i], mean that of images[i]
    normalize            y = (images - shift) * gain

images is (n, h, w, c), uint8 or float; y has its shape, and is float but for shift_crop, whose y is of images' type. No
axis is empty. matrices is float64 (n, 2, 3) and gives (row, column), between pixels too: the value there is bilinear in
the four pixels around. shifts is int64 (n, 2), flips bool (n,). Outside the image the nearest pixel of its edge counts,
unless `repeat` is False: then shift_crop gives 0. brightness and contrast are float64 (n,), shift and gain (c,) of y's
type; the image's mean is summed in float64.

affine agrees with scipy.ndimage.affine_transform(image[..., k], matrix[:, :2], matrix[:, 2], order=1, mode="nearest").
"""

import numpy as np


def _between(a, b, share):
    return a + share * (b - a)


@np.errstate(invalid="ignore")
def affine(images, matrices, scale, y):
    n, h, w, _ = images.shape
    grid = np.stack([*np.indices((h, w)), np.ones((h, w))], axis=-1)
    points = np.einsum("ipj,rqj->pirq", matrices, grid)
    rows, columns = np.clip(points[0], 0, h - 1), np.clip(points[1], 0, w - 1)
    top, left = rows.astype(np.int64), columns.astype(np.int64)
    bottom, right = np.minimum(top + 1, h - 1), np.minimum(left + 1, w - 1)
    down, across = (rows - top)[..., None], (columns - left)[..., None]
    i = np.arange(n)[:, None, None]
    values = images.astype(np.float64)
    above = _between(values[i, top, left], values[i, top, right], across)
    below = _between(values[i, bottom, left], values[i, bottom, right], across)
    y[:] = scale * _between(above, below, down)


def shift_crop(images, shifts, flips, repeat, y):
    n, h, w, _ = images.shape
    q = np.where(flips[:, None], np.arange(w)[::-1], np.arange(w))
    rows, columns = np.arange(h) + shifts[:, :1], q + shifts[:, 1:]
    inside = ((rows >= 0) & (rows < h))[:, :, None] & ((columns >= 0) & (columns < w))[:, None, :]
    rows, columns = np.clip(rows, 0, h - 1), np.clip(columns, 0, w - 1)
    y[:] = images[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
    if not repeat:
        y[~inside] = 0


def brightness_contrast(images, brightness, contrast, scale, y):
    values = images.astype(np.float64)
    mean = values.mean(axis=(1, 2, 3), keepdims=True)
    brightness, contrast = brightness.reshape(-1, 1, 1, 1), contrast.reshape(-1, 1, 1, 1)
    y[:] = scale * ((values - mean) * contrast + mean) + brightness


def normalize(images, shift, gain, y):
    y[:] = (images.astype(y.dtype) - shift) * gain
