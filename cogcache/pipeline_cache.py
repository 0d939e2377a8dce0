"""The upstream's module name: ``from cogcache.pipeline_cache import PipelineArtifactCache`` goes on
working.
"""

from cogcache.pipeline import PipelineArtifactCache
from cogcache.video import VideoArtifacts, VideoCache

__all__ = ["PipelineArtifactCache", "VideoArtifacts", "VideoCache"]
