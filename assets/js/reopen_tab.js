// Opens the tab that the address names, or the first one: when the page is loaded, and when somebody goes back or types
// another address (then `follow_address` presses a button).
({tabs}) => () => {
  window.reopened = true;  // from now on it is a person who changes tabs
  return {__type__: 'update', selected: tabs.find((tab) => '#' + tab === location.hash) || 'teach'};
}
