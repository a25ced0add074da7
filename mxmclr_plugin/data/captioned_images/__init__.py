"""Photos with captions: Flickr30K, Flickr8K, COCO, in the forms in which they are handed round."""

from mxmclr_plugin.data.captioned_images.build import captioned_images

__all__ = ["captioned_images"]
