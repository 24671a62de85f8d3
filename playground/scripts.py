"""What the browser does by itself."""

POLL = """() => {
  const root = window.gradio_config?.root ?? '.', tab = Math.random().toString(36).slice(2);
  let seen = '', last = 0;
  const look = () => { last = Date.now(); document.getElementById('look')?.click(); };
  const poll = async () => {
    let wait = 2000, news = false, patience = 2000;  // without an answer, a look every other second
    if (!document.hidden) try {
      const {mark, after, rest} = await (await fetch(`${root}/mark?tab=${tab}`, {cache: 'no-store'})).json();
      [news, seen, wait, patience] = [mark !== seen, mark, 1000 * after, 1000 * rest];
    } catch { }
    if (!document.hidden && (news || Date.now() - last > patience)) look();
    setTimeout(poll, wait);
  };
  document.addEventListener('visibilitychange', () => { if (!document.hidden) look(); });
  poll();
}"""
"""In the browser. A server that has no `/mark` (`build` without `options`), or no answer, is looked at every other second."""
SELECTED = "() => { if (window.reopened) history.replaceState(null, '', '#%s'); return '%s'; }"
REOPENED = """() => {
  window.reopened = true;  // from now on it is a person who changes tabs
  return {__type__: 'update', selected: %s.find(id => '#' + id === location.hash) || 'teach'};
}"""
"""In the browser: the address names the tab in front, so that it can be linked to, and a reload opens it again."""
ONCE = """() => {
  let first = null;
  document.addEventListener('click', (event) => {
    const button = event.target.closest('button');
    if (event.detail < 2) first = button;
    else if (button && (button !== first || button.matches('.once'))) event.stopImmediatePropagation();
  }, true);
}"""
"""The second half of a double click is no click on a button that starts something, nor on one that has moved below the pointer."""
