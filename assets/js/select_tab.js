// Writes the tab in front into the address, so that it can be linked to, and tells the server which one it is.
// Before `reopen_tab` has run, Gradio selects tabs by itself: the address stays as it was opened.
({tab}) => () => {
  if (window.reopened) history.replaceState(null, '', '#' + tab);
  return tab;
}
