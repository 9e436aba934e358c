"""An HTTP server for models: `fcnseg serve`. Needs the extra `serve` (Starlette, Uvicorn)."""
