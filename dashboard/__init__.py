"""The dashboard: the web page that the API serves; `dist` has its built files."""
