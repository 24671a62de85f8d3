"""A Plotly figure on the page that is updated in place, so that zoom and hidden lines survive."""

from importlib.util import find_spec
from pathlib import Path

import gradio as gr

PLOTLY_JS = Path(find_spec("plotly").origin).parent / "package_data" / "plotly.min.js"


class LivePlot(gr.HTML):
    """A Plotly figure (JSON) that is updated in place. Plotly comes from the installed package, never from the net."""

    def __init__(self, value: dict | None = None, *, height: int = 260, **options):
        gr.set_static_paths([str(PLOTLY_JS)])
        super().__init__(value=value or {"data": [], "layout": {}}, height=height, html_template=TEMPLATE, js_on_load=DRAW,
                         head=f'<script src="gradio_api/file={PLOTLY_JS}"></script>', **options)

    def api_info(self):
        return {"type": "object"}


TEMPLATE = "<div class='live-plot' role='img'></div>"
DRAW = """
const box = element.querySelector('.live-plot');
const axis = (given, lines) => Object.assign({gridcolor: lines, linecolor: lines}, given);
const draw = () => {
  if (!window.Plotly) return setTimeout(draw, 50);
  if (!box.isConnected || !box.clientWidth) return setTimeout(draw, 200);
  const figure = props.value || {data: [], layout: {}}, css = getComputedStyle(element);
  const ink = css.getPropertyValue('--body-text-color').trim(), lines = css.getPropertyValue('--border-color-primary').trim();
  const layout = Object.assign({}, figure.layout, {
    height: props.height, paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)',
    font: {color: ink, family: css.getPropertyValue('--font'), size: 12},
    hoverlabel: {bgcolor: css.getPropertyValue('--background-fill-primary').trim(), font: {color: ink}},
    xaxis: axis(figure.layout.xaxis, lines), yaxis: axis(figure.layout.yaxis, lines)});
  box.style.height = `${props.height}px`;
  box.setAttribute('aria-label', figure.alt || '');
  Plotly.react(box, figure.data, layout, {responsive: true, displaylogo: false, displayModeBar: false});
};
draw();
watch('value', draw);
new MutationObserver(draw).observe(document.body, {attributes: true, attributeFilter: ['class']});
"""
