// Writes the tab in front into the address, so that it can be linked to and the back button leads to the tab before, and
// tells the server which one it is. Before `reopen_tab` has run, Gradio selects tabs by itself: the address stays as it
// was opened. An address that names no tab, as when the page is opened, is replaced and not kept for the way back.
({tab, tabs}) => () => {
  const named = tabs.includes(location.hash.slice(1));
  if (window.reopened && location.hash !== '#' + tab) history[named ? 'pushState' : 'replaceState'](null, '', '#' + tab);
  return tab;
}
