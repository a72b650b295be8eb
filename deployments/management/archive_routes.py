"""The routes of archives: export a version as one file, and import such a file."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from deployments.config import Settings
from deployments.management import responses
from deployments.management.caller_registry import CallerRegistry
from deployments.management.contract import CHANGING, MODEL, NUMBER, OF_MODEL, READING_STORE
from deployments.management.request_parsing import model_of, parse_number, reject_unknown_query
from deployments.web import Answer, Body, Scope, ScopedRoute, as_json, path_parameter, read_body
from ensemble.errors import UnsupportedMediaType

__all__ = ["ArchiveRoutes"]

ARCHIVE = "application/octet-stream"
UNPACKED = 8  # times its length that an archive may unpack to; arrays of models pack by a third
ARCHIVE_SCHEMA = {"type": "string", "format": "binary"}


@dataclass(frozen=True, slots=True)
class ArchiveRoutes:
    """The routes of archives.

    Attributes:
        registry: runs work on the registry of the caller's tenant.
        settings: limits.
    """

    registry: CallerRegistry
    settings: Settings

    def routes(self) -> list[ScopedRoute]:
        """All of them."""
        return [
            ScopedRoute(
                "/import",
                self._import,
                needs=Scope.MANAGE,
                methods=["POST"],
                tag="models",
                summary="Import an archive as the next versions of the tenant; nothing is promoted",
                about=(
                    "Every model in the archive needs a signature by a trusted key, or a trusted "
                    "digest, of this installation."
                ),
                body=Body(ARCHIVE_SCHEMA, media=ARCHIVE),
                answers={201: Answer(responses.ImportedModels, "The imported versions")},
                errors=[
                    *CHANGING,
                    "BODY_TOO_LARGE",
                    "REQUEST_TIMEOUT",
                    "UNSUPPORTED_MEDIA_TYPE",
                    "SIGNING_REFUSED",
                    "QUOTA_EXCEEDED",
                    "VERSION_EXISTS",
                ],
            ),
            ScopedRoute(
                "/{name}/versions/{version}/export",
                self._export,
                needs=Scope.MANAGE,
                tag="models",
                summary="Export one version as one file",
                parameters=[
                    MODEL,
                    path_parameter("version", NUMBER, "Number of the version", "1"),
                ],
                answers={200: Answer(ARCHIVE_SCHEMA, "The archive", ARCHIVE)},
                errors=[*READING_STORE, *OF_MODEL],
            ),
        ]

    async def _import(self, request: Request) -> Response:
        reject_unknown_query(request)
        _reject_other_media(request)
        limit_bytes = self.settings.management.max_import_bytes
        data = await read_body(request.scope["headers"], request.receive, limit_bytes)
        imported = await self.registry.run(
            request,
            lambda registry: registry.import_archive(data, limit_bytes=UNPACKED * limit_bytes),
        )
        versions = [responses.Entry(str(ref.model), ref.version) for ref in imported.bundles]
        release = imported.release.serial if imported.release else None
        return as_json(responses.ImportedModels(versions, release, imported.origin), 201)

    async def _export(self, request: Request) -> Response:
        reject_unknown_query(request)
        model = model_of(request)
        version = parse_number(request.path_params["version"], "version")
        _, data = await self.registry.run(request, lambda registry: registry.export(model, version))
        name = f"{model}-{version}.axon"  # a slug and a number: nothing to quote
        headers = {
            "Content-Disposition": f'attachment; filename="{name}"',
            "X-Content-Type-Options": "nosniff",
        }
        return Response(data, media_type=ARCHIVE, headers=headers)


def _reject_other_media(request: Request) -> None:
    for name, known in (("Content-Type", ("", ARCHIVE)), ("Content-Encoding", ("", "identity"))):
        if request.headers.get(name, "").split(";", 1)[0].strip().lower() not in known:
            raise UnsupportedMediaType(name)
