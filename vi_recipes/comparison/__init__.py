"""Fits side by side: frames computed once, tables, figures, page, folder, JSON, studies."""
