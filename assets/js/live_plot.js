// Draws the figure of a LivePlot, and draws it again when its value, the theme or the width changes.
const box = element.querySelector('.live-plot');

const draw = () => {
  if (!window.Plotly) return setTimeout(draw, 50);
  if (!box.isConnected || !box.clientWidth) return setTimeout(draw, 200);
  const figure = props.value || {data: [], layout: {}};
  const css = getComputedStyle(element);
  const colour = (name) => css.getPropertyValue(name).trim();
  const ink = colour('--body-text-color'), lines = colour('--border-color-primary');
  const axis = (settings) => Object.assign({gridcolor: lines, linecolor: lines}, settings);
  const layout = Object.assign({}, figure.layout, {
    height: props.height,
    paper_bgcolor: 'rgba(0,0,0,0)',
    plot_bgcolor: 'rgba(0,0,0,0)',
    font: {color: ink, family: css.getPropertyValue('--font'), size: 12},
    hoverlabel: {bgcolor: colour('--background-fill-primary'), font: {color: ink}},
    xaxis: axis(figure.layout.xaxis),
    yaxis: axis(figure.layout.yaxis),
  });
  box.style.height = `${props.height}px`;
  box.setAttribute('aria-label', figure.alt || '');
  Plotly.react(box, figure.data, layout, {responsive: true, displaylogo: false, displayModeBar: false});
};

draw();
watch('value', draw);
new MutationObserver(draw).observe(document.body, {attributes: true, attributeFilter: ['class']});
