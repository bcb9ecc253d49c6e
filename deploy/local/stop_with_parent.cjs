// Loaded into Azurite's process before it. Standard input is a pipe whose other end only the
// program that started us holds: when that program ends, however it ends, the pipe closes, and we
// stop the way SIGTERM stops us, so that everything is saved.
"use strict";

process.stdin.on("end", () => process.kill(process.pid, "SIGTERM"));
process.stdin.on("error", () => process.kill(process.pid, "SIGTERM"));
process.stdin.resume();
process.stdin.unref();
