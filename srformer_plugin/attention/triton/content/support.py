"""Which calls the kernels of this folder can compute, among those that any kernel can (`..support`)."""

from ...method.content import ContentSchedule, MeanScore
from ...method.memory import NoMemory
from ...request import Request

LARGEST_SEGMENT = 64
MOST_CHOSEN = 32  # segments per query: as many as a row of registers holds


def obstacle(request: Request) -> str | None:
    """Why the kernels cannot let queries choose as a call asks for; None: they can."""
    choice, size = request.plan.choice, request.layout.segment_size
    if type(request.memory) is not NoMemory:
        return f"the memory behind segments chosen by content is a {type(request.memory).__name__}"
    if type(choice) is not ContentSchedule or type(choice.score) is not MeanScore:
        return "segments are not rated by their mean key"
    if size > LARGEST_SEGMENT:
        return f"the segment size {size} is above {LARGEST_SEGMENT}"
    if choice.segments_per_query > MOST_CHOSEN:
        return f"{choice.segments_per_query} segments per query are more than {MOST_CHOSEN}"
    return None
