"""The image-generation gateway that a team mounts in its own ASGI app."""

from amux_asgi.adapters._base import Adapter, bearer, header
from amux_asgi.app import ImagesApp, images_app
from amux_asgi.build import channel, fixed_keys
from amux_asgi.config import ChannelConfig, Config, GatewayConfig, KeyConfig, ModelConfig
from amux_asgi.errors import ConfigError, GatewayError
from amux_asgi.gateway import Gateway, Generation
from amux_asgi.keys import KeyStore, Principal
from amux_asgi.lifespans import combine_lifespans
from amux_asgi.middleware.auth import AuthMiddleware, anyone, from_user, outer
from amux_asgi.middleware.errors import ErrorMiddleware, reraise
from amux_asgi.middleware.passthrough import Passthrough, PassthroughMiddleware
from amux_asgi.schema import GenerationRequest, Image, ImagesResponse
from amux_asgi.scope import principal_of

__all__ = [
    "Adapter",
    "AuthMiddleware",
    "ChannelConfig",
    "Config",
    "ConfigError",
    "ErrorMiddleware",
    "Gateway",
    "GatewayConfig",
    "GatewayError",
    "Generation",
    "GenerationRequest",
    "Image",
    "ImagesApp",
    "ImagesResponse",
    "KeyConfig",
    "KeyStore",
    "ModelConfig",
    "Passthrough",
    "PassthroughMiddleware",
    "Principal",
    "anyone",
    "bearer",
    "channel",
    "combine_lifespans",
    "fixed_keys",
    "from_user",
    "header",
    "images_app",
    "outer",
    "principal_of",
    "reraise",
]
