// The Node package `eventsource-parser` behind `fetch`: it reads events, connecting again is left to its user.
import { setTimeout } from "node:timers/promises"
import { EventSourceParserStream } from "eventsource-parser/stream"

const say = (seen) => process.stdout.write(JSON.stringify(seen) + "\n")

async function follow(url, number) {
  let id = ""
  let wait = 3000
  for (;;) {
    try {
      const headers = { accept: "text/event-stream", ...(id && { "last-event-id": id }) }
      const response = await fetch(url, { headers })
      if (response.status !== 200) return say([number, "closed", "", ""])
      const events = response.body
        .pipeThrough(new TextDecoderStream())
        .pipeThrough(new EventSourceParserStream({ onRetry: (milliseconds) => (wait = milliseconds) }))
      for await (const event of events) {
        id = event.id ?? id
        say([number, event.event ?? "message", event.data, id])
      }
    } catch (error) {
      if (!(error instanceof TypeError)) throw error // `fetch` and its body fail with this one
    }
    await setTimeout(wait)
  }
}

process.stdin.on("end", () => process.exit()).resume()
JSON.parse(process.argv[2]).forEach(follow)
