"""The image-generation gateway that a team mounts in its own ASGI app."""

from amux_asgi.adapters._base import Adapter, bearer, header
from amux_asgi.admin import AdminApp, admin_app
from amux_asgi.admission import Limiter, Rule, rules
from amux_asgi.app import ImagesApp, images_app
from amux_asgi.build_channels import channel
from amux_asgi.build_keys import fixed_keys
from amux_asgi.charging import charge
from amux_asgi.config import (
    ChannelConfig,
    Config,
    GatewayConfig,
    KeyConfig,
    LimitsConfig,
    ModelConfig,
    PriceConfig,
)
from amux_asgi.database import Database
from amux_asgi.errors import ConfigError, GatewayError
from amux_asgi.events import Event
from amux_asgi.gateway import Estimate, Gateway
from amux_asgi.generation import Generation
from amux_asgi.keys import KeyStore, Principal
from amux_asgi.lifespans import combine_lifespans
from amux_asgi.limit_store import Limits
from amux_asgi.middleware.auth import AuthMiddleware, anyone, from_user, outer
from amux_asgi.middleware.errors import ErrorMiddleware, reraise
from amux_asgi.middleware.limit import LimitMiddleware, by_account, by_address, by_key
from amux_asgi.middleware.passthrough import Passthrough, PassthroughMiddleware
from amux_asgi.middleware.quota import QuotaMiddleware
from amux_asgi.planning import Terms
from amux_asgi.quota import Ledger, MemoryLedger
from amux_asgi.schema import GenerationRequest, Image, ImagesResponse
from amux_asgi.scope import principal_of
from amux_asgi.streams import Stream

__all__ = [
    "Adapter",
    "AdminApp",
    "AuthMiddleware",
    "ChannelConfig",
    "Config",
    "ConfigError",
    "Database",
    "ErrorMiddleware",
    "Estimate",
    "Event",
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
    "Ledger",
    "LimitMiddleware",
    "Limiter",
    "Limits",
    "LimitsConfig",
    "MemoryLedger",
    "ModelConfig",
    "Passthrough",
    "PassthroughMiddleware",
    "PriceConfig",
    "Principal",
    "QuotaMiddleware",
    "Rule",
    "Stream",
    "Terms",
    "admin_app",
    "anyone",
    "bearer",
    "by_account",
    "by_address",
    "by_key",
    "channel",
    "charge",
    "combine_lifespans",
    "fixed_keys",
    "from_user",
    "header",
    "images_app",
    "outer",
    "principal_of",
    "reraise",
    "rules",
]
