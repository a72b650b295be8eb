"""Configuration: settings, tenants and trust; every file that an operator edits."""

from deployments.config.layer_settings import ROOT, ScalingSettings
from deployments.config.settings import (
    GuardSettings,
    IngressSettings,
    RetroSettings,
    RolloutSettings,
    Settings,
    deep_merge,
    read_settings,
)
from deployments.config.tenants import Limit, Tenants
from deployments.config.trust import (
    KEY_VARIABLE,
    SigningRefused,
    TrustFile,
    key_path,
    parse_trust_file,
    read_key,
    read_signer,
    read_trust,
    read_trust_file,
)
from deployments.config.trusted_store import TrustedStore

__all__ = [
    "KEY_VARIABLE",
    "ROOT",
    "GuardSettings",
    "IngressSettings",
    "Limit",
    "RetroSettings",
    "RolloutSettings",
    "ScalingSettings",
    "Settings",
    "SigningRefused",
    "Tenants",
    "TrustFile",
    "TrustedStore",
    "deep_merge",
    "key_path",
    "parse_trust_file",
    "read_key",
    "read_settings",
    "read_signer",
    "read_trust",
    "read_trust_file",
]
