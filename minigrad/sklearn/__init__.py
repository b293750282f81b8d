"""minigrad's networks as scikit-learn's estimators: MinigradClassifier and MinigradRegressor.

Needs the extra `sklearn`, which is looked for when one of the two is asked for.
"""

from typing import TYPE_CHECKING

from minigrad.kernels.build.settings import install

if TYPE_CHECKING:
    from minigrad.sklearn.estimators import MinigradClassifier, MinigradRegressor
else:

    def __getattr__(name: str) -> type:
        if name not in __all__:
            raise AttributeError(f"module 'minigrad.sklearn' has no attribute {name!r}")
        try:
            from minigrad.sklearn import estimators
        except ImportError as error:
            raise ImportError(f"{name} needs scikit-learn 1.6 or newer ({error}): {install('sklearn')}") from error
        return getattr(estimators, name)


def __dir__() -> list[str]:
    """What is public, for completion; it is loaded when first used."""
    return [*__all__, *[name for name in globals() if name.startswith("__")]]


__all__ = ["MinigradClassifier", "MinigradRegressor"]
