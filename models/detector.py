"""What torchvision's detectors have in common."""

from .basic_module import BasicModule, ModelError


class Detector(BasicModule):
    """One of torchvision's detectors, which bring their own losses; a subclass hands it to __init__.

    Images are a list of float32 [3, h, w] from 0 to 1, of any sizes; they are seen in the sizes they have. Targets are
    a list of dicts: boxes float32 [n, 4] (x1, y1, x2, y2), labels int64 [n] from 1, masks uint8 [n, h, w]. Detections
    are a list of dicts, the best first: boxes [n, 4], labels [n], scores [n] and, where the model draws them, masks
    float [n, 1, h, w] from 0 to 1.
    """

    task = "detection"
    val_loss = False
    inner = "detector"

    def __init__(self, detector):
        super().__init__()
        self.detector = detector
        detector.transform.resize = as_it_is

    def set_criterion(self, names=None, weight=None):
        """Raises ModelError for anything but the model's own losses."""
        if names or weight is not None:
            asked = f"--criterion={names}" if names else "--class-weights"
            raise ModelError(f"{self.model_name} learns with its own losses: leave {asked} out")

    def forward(self, images):
        """Images -> detections, in eval mode."""
        return self.detector(images)

    def objective(self, input, target):
        """In training mode ([], torchvision's losses by name), for there are no detections; else (detections, {})."""
        return ([], self.detector(input, target)) if self.training else (self(input), {})

    def decode(self, score):
        """Detections are predictions already."""
        return score


def as_it_is(image, target=None):
    """Instead of torchvision's own resizing: the data set has brought the images to the size that was asked for."""
    return image, target
