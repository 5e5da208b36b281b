"""The way of a model through convert: survey, isolate, calibrate, choose starts, apply."""
