// The Node package `eventsource`.
import { EventSource } from "eventsource"
import "./watch.js"

process.stdin.on("end", () => process.exit()).resume()
watch(EventSource, JSON.parse(process.argv[2]), (seen) => process.stdout.write(JSON.stringify(seen) + "\n"))
