package dev.mobilebundle.demo

import android.os.StatFs
import dev.mobilebundle.lm.Role
import java.io.File
import java.io.FileOutputStream
import java.io.IOException
import org.json.JSONArray
import org.json.JSONException
import org.json.JSONObject

/** A conversation in a list. [changed]: milliseconds since 1970. [found]: where a search found its words; else empty. */
data class ConversationSummary(val id: String, val title: String, val changed: Long, val messages: Int, val found: String)

/**
 * The conversations on the disk: a folder per bundle, a file per conversation, and beside it the state in which the model
 * had read it, for the few that were used last. Every function but [stateFile] reads or writes files: not on the main thread.
 */
class ConversationStore(private val root: File) {
    /** The conversation that was changed last; null where there is none. */
    fun latest(bundleId: String): Conversation? =
        newestFirst(bundleId).firstNotNullOfOrNull { load(bundleId, id(it)) }

    /** null where it is gone or cannot be read; it is then left as it is. */
    fun load(bundleId: String, id: String): Conversation? = try {
        val file = file(bundleId, id)
        if (file.length() > MOST_BYTES) throw IOException("too large")
        Conversation(bundleId, id, turns(JSONArray(file.readText())))
    } catch (_: IOException) {
        null
    } catch (_: JSONException) {
        null
    } catch (_: IllegalArgumentException) {
        null
    }

    /** Writes it whole or not at all; false where the disk would not take it. */
    fun save(conversation: Conversation): Boolean {
        val json = JSONArray()
        for (turn in conversation.turns) {
            json.put(JSONObject().put("role", turn.role.name).put("text", turn.text).put("ending", turn.ending?.name))
        }
        val file = file(conversation.bundleId, conversation.id)
        val partial = File(file.path + PARTIAL)
        return try {
            file.parentFile?.mkdirs()
            FileOutputStream(partial).use {
                it.write(json.toString().toByteArray())
                it.fd.sync()
            }
            partial.renameTo(file)
        } catch (_: IOException) {
            partial.delete()
            false
        }
    }

    /** Newest first: all of them, or those in which [query] occurs. */
    fun list(bundleId: String, query: String = ""): List<ConversationSummary> = newestFirst(bundleId).mapNotNull { file ->
        load(bundleId, id(file))?.let { conversation ->
            val found = find(conversation.turns, query.trim())
            found?.let { ConversationSummary(conversation.id, titleOf(conversation.turns), file.lastModified(), conversation.turns.size, it) }
        }
    }

    /** Puts it aside: [undelete] brings it back until [purge]. Its state is removed at once: it holds the words, too. */
    fun delete(bundleId: String, id: String) {
        file(bundleId, id).let { it.renameTo(File(it.path + DELETED)) }
        deleteState(bundleId, id)
    }

    fun undelete(bundleId: String, id: String) {
        file(bundleId, id).let { File(it.path + DELETED).renameTo(it) }
    }

    /** Removes what was deleted, and what a kill left half-written. No model may be writing a state meanwhile. */
    fun purge() {
        root.walkTopDown().filter { it.isFile && REST.containsMatchIn(it.name) }.forEach { it.delete() }
        trimStates()
    }

    /** Where the state of a conversation is, or would be. */
    fun stateFile(bundleId: String, id: String) = File(folder(bundleId), id + STATE)

    /** Whether a state of so many bytes leaves the phone storage enough for everything else. */
    fun hasRoomFor(bytes: Long): Boolean {
        if (!root.isDirectory && !root.mkdirs()) return false
        return StatFs(root.path).availableBytes >= bytes + SPARE_BYTES
    }

    fun deleteState(bundleId: String, id: String) {
        stateFile(bundleId, id).delete()
    }

    /** Keeps the states that were written last, and none of a conversation that is gone. */
    fun trimStates() {
        val (kept, orphans) = root.walkTopDown().filter { it.name.endsWith(STATE) }.toList()
            .partition { File(it.path.removeSuffix(STATE) + JSON).exists() }
        val older = kept.sortedByDescending { it.lastModified() }.drop(MOST_STATES)
        for (file in orphans + older) file.delete()
    }

    /** Removes all conversations of a bundle. */
    fun forget(bundleId: String) {
        folder(bundleId).deleteRecursively()
    }

    private fun folder(bundleId: String) = File(root, bundleId)

    private fun file(bundleId: String, id: String) = File(folder(bundleId), id + JSON)

    private fun id(file: File) = file.name.removeSuffix(JSON)

    private fun newestFirst(bundleId: String): List<File> =
        folder(bundleId).listFiles().orEmpty().filter { it.name.endsWith(JSON) }
            .map { it to it.lastModified() }
            .sortedWith(compareByDescending<Pair<File, Long>> { it.second }.thenByDescending { it.first.name })
            .map { it.first }

    private fun turns(json: JSONArray): List<Turn> {
        val turns = (0 until json.length()).map { i ->
            val turn = json.getJSONObject(i)
            val ending = turn.optString("ending").takeIf { it.isNotEmpty() }?.let { Ending.valueOf(it) }
            Turn(Role.valueOf(turn.getString("role")), turn.getString("text"), ending)
        }
        val last = turns.lastOrNull()
        // The process ended while this answer was being written.
        return if (last?.role == Role.ASSISTANT && last.ending == null) turns.dropLast(1) + last.copy(ending = Ending.INTERRUPTED) else turns
    }

    /** The words around the first place; empty for no query, null where it does not occur. */
    private fun find(turns: List<Turn>, query: String): String? {
        if (query.isEmpty()) return ""
        for (turn in turns) {
            val at = turn.text.indexOf(query, ignoreCase = true)
            if (at >= 0) return turn.text.substring(maxOf(0, at - AROUND), minOf(turn.text.length, at + query.length + AROUND)).replace('\n', ' ').trim()
        }
        return null
    }

    private companion object {
        const val JSON = ".json"
        const val PARTIAL = ".part"
        const val DELETED = ".deleted"
        const val STATE = ".state"

        /** The runner's own name for a state that it is writing ends in numbers. */
        val REST = Regex("(\\$DELETED|\\$PARTIAL|\\$STATE\\.partial-[0-9-]+)$")

        /** Of all models: a state has some kilobytes for every token, so a long conversation's has megabytes. */
        const val MOST_STATES = 4
        const val SPARE_BYTES = 64L shl 20
        const val MOST_BYTES = 16L shl 20
        const val AROUND = 40
    }
}
