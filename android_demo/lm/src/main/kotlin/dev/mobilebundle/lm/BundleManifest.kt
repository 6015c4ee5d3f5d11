package dev.mobilebundle.lm

import android.util.JsonReader
import android.util.JsonToken
import android.util.MalformedJsonException
import java.io.File
import java.io.IOException
import java.security.MessageDigest
import org.json.JSONException
import org.json.JSONObject

/**
 * What manifest.json says of a bundle, as far as an app needs it. [content]: the sha256 of the file. It names every file of
 * the bundle with its own sha256, so it stands for the whole content.
 */
class BundleManifest private constructor(json: JSONObject, private val content: String) {
    /** A file of the bundle. */
    data class Part(val name: String, val bytes: Long, val sha256: String)

    private val model = json.getJSONObject("model")
    private val predicted = json.getJSONObject("predicted")
    private val anonymousBytes = size(predicted, "anon_bytes")
    private val kvBytesPerToken: Long = size(predicted, "kv_bytes_per_token", MOST_PER_TOKEN)

    /**
     * What answers in a given form ([AnswerForm]) take on top of [peakBytes] and [anonymousBytes], at most. For a bundle that
     * was built before this was predicted it is what a large vocabulary takes.
     */
    val formBytes: Long = if (predicted.has("form_bytes")) size(predicted, "form_bytes") else UNKNOWN_FORM_BYTES

    val name: String = model.getString("name")
    val recipe: String = json.getString("recipe")
    val parameters = model.getLong("parameters")
    val bitsPerWeight = json.getDouble("bits_per_weight")

    /** Of all files but the manifest. */
    val bytes = size(json, "bytes")

    /** Tokens that predictions count with, and the most that the model was trained for. */
    val defaultContext = predicted.getInt("context")
    val longestContext = model.getInt("context")

    /** Whether it can hold a conversation; otherwise it continues texts. */
    val hasChatTemplate = json.getBoolean("chat_template")
    val licence: String? = if (json.isNull("licence")) null else json.getString("licence")
    val parts: List<Part> = parts(json.getJSONObject("files"))

    /** Whether tensors are stored in a form that is decoded at install into a file of its own. */
    val needsInstall = storedForms(json)

    /** What the phone's disk must hold: the files and, for [needsInstall], at most as much as a run reads. */
    val installedBytes = bytes + if (needsInstall) size(predicted, "file_bytes") else 0

    /** A name for its directory, which no other content has: the model's name for people, then its sha256's beginning. */
    val id = name.replace(Regex("[^A-Za-z0-9._+-]"), "_").trimStart('.').take(NAME_CHARACTERS) + "-" + content.take(HASH_DIGITS)

    private val peak = size(predicted, "peak_bytes")

    init {
        // What is written is what was promised: room on the disk is checked by this sum.
        if (parts.sumOf { it.bytes } != bytes) throw JSONException("`bytes` is not the sum of its files")
    }

    /** Predicted peak of its process with a context of so many tokens (null: the default), all of them in use. */
    fun peakBytes(context: Int? = null): Long =
        peak + ((context ?: defaultContext) - defaultContext) * kvBytesPerToken

    /** Of [peakBytes], what the kernel can only swap: the conversation and the work space. */
    fun anonymousBytes(context: Int? = null): Long =
        anonymousBytes + ((context ?: defaultContext) - defaultContext) * kvBytesPerToken

    companion object {
        const val FILE = "manifest.json"

        /** A manifest is refused above this size. */
        const val MOST_BYTES = 16 shl 20
        private const val VERSION = 1
        private val STORED = setOf("base3", "seedlm", "lattice", "entropy")

        /** Above this no size of a phone's file or memory lies, and sums of them cannot overflow. */
        private const val MOST_SIZE = 1L shl 44
        private const val MOST_PER_TOKEN = 1L shl 30

        /** Qwen2.5's 151,936 tokens take 20 MB, of which 12 MB are the same for every vocabulary. */
        private const val UNKNOWN_FORM_BYTES = 32_000_000L
        private const val MOST_DEPTH = 32
        private const val MOST_FILES = 10_000
        private const val NAME_CHARACTERS = 60
        private const val HASH_DIGITS = 16

        /** IOException, in one line, where it is no manifest that this app can read. */
        @Throws(IOException::class)
        fun parse(bytes: ByteArray): BundleManifest {
            try {
                val text = String(bytes)
                checkDepth(text)
                val json = JSONObject(text)
                if (json.optString("format") != "mobile-bundle") throw IOException("not the manifest of a mobile-bundle")
                val version = json.getInt("format_version")
                if (version != VERSION) throw IOException("format version $version; this app reads $VERSION")
                return BundleManifest(json, MessageDigest.getInstance("SHA-256").digest(bytes).hex())
            } catch (e: JSONException) {
                throw IOException("the manifest is damaged: ${e.message}", e)
            } catch (e: MalformedJsonException) {
                throw IOException("the manifest is damaged: ${e.message}", e)
            } catch (e: OutOfMemoryError) {
                throw IOException("the manifest is too large for this phone", e)
            }
        }

        /** Of a bundle's directory. Reads a file: not on the main thread. */
        @Throws(IOException::class)
        fun read(bundle: File): BundleManifest {
            checkWorker()
            val file = File(bundle, FILE)
            if (file.length() > MOST_BYTES) throw IOException("the manifest is too large")
            return parse(file.readBytes())
        }

        /** JSONObject's parser calls itself for what is nested; this one does not, so it can look first. */
        private fun checkDepth(text: String) {
            var depth = 0
            JsonReader(text.reader()).use { reader ->
                while (true) {
                    when (reader.peek()) {
                        JsonToken.BEGIN_ARRAY -> reader.beginArray().also { depth++ }
                        JsonToken.BEGIN_OBJECT -> reader.beginObject().also { depth++ }
                        JsonToken.END_ARRAY -> reader.endArray().also { depth-- }
                        JsonToken.END_OBJECT -> reader.endObject().also { depth-- }
                        JsonToken.NAME -> reader.nextName()
                        JsonToken.NULL -> reader.nextNull()
                        JsonToken.BOOLEAN -> reader.nextBoolean()
                        JsonToken.STRING, JsonToken.NUMBER -> reader.nextString()
                        JsonToken.END_DOCUMENT, null -> return
                    }
                    if (depth > MOST_DEPTH) throw IOException("the manifest is nested too deeply")
                }
            }
        }

        private fun storedForms(json: JSONObject): Boolean {
            val tensors = json.getJSONArray("tensors")
            return (0 until tensors.length()).any { tensors.getJSONObject(it).getString("format") in STORED }
        }

        private fun size(json: JSONObject, name: String, most: Long = MOST_SIZE): Long {
            val bytes = json.getLong(name)
            if (bytes !in 0..most) throw JSONException("`$name` is no size: $bytes")
            return bytes
        }

        private fun parts(files: JSONObject): List<Part> {
            if (files.length() > MOST_FILES) throw JSONException("it has ${files.length()} files")
            return files.keys().asSequence().map { name ->
                val file = files.getJSONObject(name)
                val steps = name.split('/')
                // A dot in front is for what the importer keeps beside the files.
                if (steps.any { it.isEmpty() || it.startsWith(".") || it.endsWith(PARTIAL) } || name == FILE) {
                    throw JSONException("a file's name makes no sense")
                }
                Part(name, size(file, "bytes"), file.getString("sha256"))
            }.toList()
        }
    }
}
