"""What models take and give of pictures: crops, colors, boxes, quads, polygons, outputs of detectors."""
