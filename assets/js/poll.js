// Refreshes the page when something in the workspace has changed. The server says when to ask for changes again.
// A server that has no `/mark` (`build` without `options`), or that does not answer, is asked for a refresh
// every two seconds.
() => () => {
  const root = window.gradio_config?.root ?? '.';
  const tab = Math.random().toString(36).slice(2);
  let seen = '', last = 0;
  const refresh = () => {
    last = Date.now();
    document.getElementById('look')?.click();
  };
  const poll = async () => {
    let wait = 2000, changed = false, longest = 2000;
    if (!document.hidden) try {
      const answer = await fetch(`${root}/mark?tab=${tab}`, {cache: 'no-store'});
      const {mark, after, rest} = await answer.json();
      [changed, seen, wait, longest] = [mark !== seen, mark, 1000 * after, 1000 * rest];
    } catch { }
    if (!document.hidden && (changed || Date.now() - last > longest)) refresh();
    setTimeout(poll, wait);
  };
  document.addEventListener('visibilitychange', () => { if (!document.hidden) refresh(); });
  poll();
}
