"""Text of one completion and a gold answer -> verdict. Pure Python, no Ray.

python -m rft_ray.grading FILE --gold FILE      grade completions of any sampler and select paths
"""

from rft_ray.grading.answers import Answer
from rft_ray.grading.equations import MAX_TEXT_CHARS, MODES, Mode
from rft_ray.grading.grader import COLLECTING, EVALUATING, extract_answer, grade

__all__ = ["COLLECTING", "EVALUATING", "MAX_TEXT_CHARS", "MODES", "Answer", "Mode", "extract_answer", "grade"]
