// What an EventSource dispatches, told to `say`. The same in Node and in Chromium.
globalThis.watch = (EventSource, urls, say) =>
  urls.forEach((url, number) => {
    const source = new EventSource(url)
    for (const name of ["connected", "message", "gap"])
      source.addEventListener(name, (event) => say([number, name, event.data, event.lastEventId]))
    source.addEventListener("error", () => {
      if (source.readyState === 2) say([number, "closed", "", ""]) // it has given up for good
    })
  })
