"""What pyproject.toml cannot say: the folder weights/ of the repository is tracker/weights inside the wheel."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["tracker", "tracker.*", "reid_training", "reid_training.*"]), "tracker.weights"],
    package_dir={"tracker.weights": "weights"},
)
