"""Data: from a folder on disk to batches.

layouts (pairs of paths) -> SegmentationDataset (image, train ids, name) -> transforms -> Batch.

`open_dataset("cityscapes:/data/cityscapes", split="val")` opens a data set; MiniStreet, the embedded pair of domains, is
written to disk in the same layouts by `course_lib.data.ministreet`.
"""

from course_lib.data.cache import cache_folder, cache_that_is_needed
from course_lib.data.dataset import SegmentationDataset, open_dataset
from course_lib.data.doctor import Report, check
from course_lib.data.loading import collate, test_loader, train_loader
from course_lib.data.preparing import prepare
from course_lib.data.sampling import ClassBalancedSampler, EndlessSampler, RareClassSampler, RareClassSettings
from course_lib.data.transforms import NORMALISATIONS, PUBLISHED_SIZES, test_transform, train_transform
from course_lib.data.types import Batch, Sample, Unfinished, UnfinishedBatch
from course_lib.data.views import WEAK_VIEWS, Views, ViewSettings

__all__ = [
    "NORMALISATIONS", "PUBLISHED_SIZES", "WEAK_VIEWS", "Batch", "ClassBalancedSampler", "EndlessSampler",
    "RareClassSampler", "RareClassSettings", "Report", "Sample",
    "SegmentationDataset", "Unfinished", "UnfinishedBatch", "ViewSettings", "Views", "cache_folder",
    "cache_that_is_needed", "check", "collate", "open_dataset", "prepare", "test_loader", "test_transform", "train_loader",
    "train_transform",
]  # fmt: skip
