// Search reads the found pages to show a line of each. From the disk a browser does not allow it.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
