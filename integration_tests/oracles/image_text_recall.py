"""R@k of image-text retrieval as the literature defines it, photo by photo and caption by caption.

The definition of VSE++ and SCAN: photo k has c captions, from c k to c k + c - 1; the rank of a
photo is that of the best of its captions; 5 x 1K is the mean over consecutive groups.
"""

import numpy as np


def image_to_text(images, captions, k):
    """R@k in percent of photos that look for captions."""
    each = len(captions) // len(images)
    found = 0
    for number, image in enumerate(images):
        order = np.argsort(-(captions @ image))
        rank = min(int(np.where(order == each * number + c)[0][0]) for c in range(each))
        found += rank < k
    return 100 * found / len(images)


def text_to_image(images, captions, k):
    """R@k in percent of captions that look for their photo."""
    each = len(captions) // len(images)
    found = 0
    for number, caption in enumerate(captions):
        order = np.argsort(-(images @ caption))
        found += int(np.where(order == number // each)[0][0]) < k
    return 100 * found / len(captions)


def over_groups(figure, images, captions, k, size):
    """Mean of a figure over consecutive groups of photos."""
    each = len(captions) // len(images)
    groups = [
        figure(images[start : start + size], captions[each * start : each * (start + size)], k)
        for start in range(0, len(images) - size + 1, size)
    ]
    return float(np.mean(groups))
