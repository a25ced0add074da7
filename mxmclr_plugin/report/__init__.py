"""One HTML file that shows a comparison, an ablation or a run; its plots as files."""
