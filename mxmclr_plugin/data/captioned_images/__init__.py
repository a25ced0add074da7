"""Photos with captions: Flickr30K, Flickr8K, COCO, in the forms in which they are handed round."""
