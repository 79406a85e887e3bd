// A plain Node service with the same contract: node:http, a queue of 10 per client, messages dropped and counted
// when it is full.
//
// Environment: SSE_PORT, REDIS_PORT, SSE_HEARTBEAT_SECONDS, SSE_JWT_SECRET, SSE_TLS_CERT, SSE_TLS_KEY.
// GET /sse?user_id=N (with a secret: of the user that the bearer token names), /healthz, /stats.
import { createHmac, timingSafeEqual } from "node:crypto";
import { readFileSync } from "node:fs";
import http from "node:http";
import https from "node:https";
import { createClient } from "redis";

const BUFFER = 10; // messages per client
const HEARTBEAT_MS = 1000 * Number(process.env.SSE_HEARTBEAT_SECONDS ?? 30);
const SECRET = process.env.SSE_JWT_SECRET;
const HEAD = { "Content-Type": "text/event-stream", "Cache-Control": "no-store", Connection: "close" };

const clients = new Map(); // user -> set of clients
const touched = new Set(); // clients with something queued, for the end of this turn
let dropped = 0;
let subscribed = false;

// What is queued leaves in one write. While the socket takes nothing, it stays queued.
function flush(client) {
  touched.delete(client);
  if (client.full || !client.queue.length) return;
  const bytes = client.queue.length === 1 ? client.queue[0] : Buffer.concat(client.queue);
  client.queue = [];
  client.full = !client.response.write(bytes);
}

function flushTouched() {
  for (const client of touched) flush(client);
}

// The event's bytes are made once, however many clients get them.
function deliver(payload) {
  const ofUser = clients.get(String(JSON.parse(payload).user_id));
  if (!ofUser) return;
  const event = Buffer.from(`data: ${payload}\n\n`);
  for (const client of ofUser) {
    if (client.queue.length >= BUFFER) {
      dropped++;
      continue;
    }
    client.queue.push(event);
    if (!touched.size) setImmediate(flushTouched);
    touched.add(client);
    // Many messages come in one read, and nothing else runs between them.
    if (client.queue.length >= BUFFER / 2) flush(client);
  }
}

// The user that an HS256 bearer token names, or undefined.
function userOfToken(header = "") {
  const [head, claims, signature] = header.replace(/^Bearer /, "").split(".");
  if (!signature || JSON.parse(Buffer.from(head, "base64url")).alg !== "HS256") return undefined;
  const right = createHmac("sha256", SECRET).update(`${head}.${claims}`).digest();
  const given = Buffer.from(signature, "base64url");
  if (given.length !== right.length || !timingSafeEqual(given, right)) return undefined;
  const { sub, exp } = JSON.parse(Buffer.from(claims, "base64url"));
  return exp > Date.now() / 1000 ? sub : undefined;
}

function stream(request, response, query) {
  const user = SECRET ? userOfToken(request.headers.authorization) : query.get("user_id");
  if (!user) return response.writeHead(401).end();
  const client = { response, queue: [], full: false };
  if (!clients.has(user)) clients.set(user, new Set());
  clients.get(user).add(client);
  response.useChunkedEncodingByDefault = false; // the end of the connection ends the stream
  response.writeHead(200, HEAD);
  response.write(`event: connected\ndata: {"user_id":${JSON.stringify(user)}}\n\n`);
  response.on("drain", () => {
    client.full = false;
    flush(client);
  });
  const heartbeat = setInterval(() => {
    if (!client.full) response.write(`event: heartbeat\ndata: {"server_time":"${new Date().toISOString()}"}\n\n`);
  }, HEARTBEAT_MS);
  response.on("close", () => {
    clearInterval(heartbeat);
    touched.delete(client);
    const ofUser = clients.get(user);
    ofUser.delete(client);
    if (!ofUser.size) clients.delete(user);
  });
}

function answer(request, response) {
  const [path, query] = request.url.split("?");
  if (path === "/sse") stream(request, response, new URLSearchParams(query));
  else if (path === "/healthz") response.writeHead(subscribed ? 200 : 503).end();
  else if (path === "/stats") response.end(`{"dropped": ${dropped}}\n`);
  else response.writeHead(404).end();
}

const cert = process.env.SSE_TLS_CERT;
const server = cert
  ? https.createServer({ cert: readFileSync(cert), key: readFileSync(process.env.SSE_TLS_KEY) }, answer)
  : http.createServer(answer);
server.listen({ port: Number(process.env.SSE_PORT), host: "127.0.0.1", backlog: 4096 });

const redis = createClient({ socket: { host: "127.0.0.1", port: Number(process.env.REDIS_PORT) } });
redis.on("error", (error) => {
  console.error("redis:", error.message);
  process.exit(1);
});
await redis.connect();
await redis.subscribe("notifications", deliver);
subscribed = true;
