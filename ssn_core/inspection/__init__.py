"""Own images: training on a folder, threshold, prediction, evaluation, gallery. Imports runs and what lies below."""
