package dev.mobilebundle.lm

import java.io.File
import java.io.IOException
import org.json.JSONException
import org.json.JSONObject

/** What manifest.json says of a bundle, as far as an app needs it. */
class BundleManifest private constructor(json: JSONObject) {
    /** A file of the bundle. */
    data class Part(val name: String, val bytes: Long, val sha256: String)

    private val model = json.getJSONObject("model")
    private val predicted = json.getJSONObject("predicted")
    private val anonymousBytes = predicted.getLong("anon_bytes")
    private val kvBytesPerToken = predicted.getLong("kv_bytes_per_token")

    val name: String = model.getString("name")
    val recipe: String = json.getString("recipe")
    val parameters = model.getLong("parameters")
    val bitsPerWeight = json.getDouble("bits_per_weight")

    /** Of all files but the manifest. */
    val bytes = json.getLong("bytes")

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
    val installedBytes = bytes + if (needsInstall) predicted.getLong("file_bytes") else 0

    /** A name for its directory. */
    val id = "$name-$recipe".replace(Regex("[^A-Za-z0-9._+-]"), "_").trimStart('.')

    /** Predicted peak of its process with a context of so many tokens (null: the default), all of them in use. */
    fun peakBytes(context: Int? = null): Long =
        predicted.getLong("peak_bytes") + ((context ?: defaultContext) - defaultContext) * kvBytesPerToken

    /** Of [peakBytes], what the kernel can only swap: the conversation and the work space. */
    fun anonymousBytes(context: Int? = null): Long =
        anonymousBytes + ((context ?: defaultContext) - defaultContext) * kvBytesPerToken

    companion object {
        const val FILE = "manifest.json"

        /** A manifest is refused above this size. */
        const val MOST_BYTES = 16 shl 20
        private const val VERSION = 1
        private val STORED = setOf("base3", "seedlm", "lattice", "entropy")

        /** IOException, in one line, where it is no manifest that this app can read. */
        @Throws(IOException::class)
        fun parse(text: String): BundleManifest {
            try {
                val json = JSONObject(text)
                if (json.optString("format") != "mobile-bundle") throw IOException("not the manifest of a mobile-bundle")
                val version = json.getInt("format_version")
                if (version != VERSION) throw IOException("format version $version; this app reads $VERSION")
                return BundleManifest(json)
            } catch (e: JSONException) {
                throw IOException("the manifest is damaged: ${e.message}", e)
            }
        }

        /** Of a bundle's directory. */
        @Throws(IOException::class)
        fun read(bundle: File): BundleManifest = parse(File(bundle, FILE).readText())

        private fun storedForms(json: JSONObject): Boolean {
            val tensors = json.getJSONArray("tensors")
            return (0 until tensors.length()).any { tensors.getJSONObject(it).getString("format") in STORED }
        }

        private fun parts(files: JSONObject): List<Part> = files.keys().asSequence().map { name ->
            val file = files.getJSONObject(name)
            if (name.startsWith("/") || name.split('/').any { it.isEmpty() || it == ".." || it == "." }) {
                throw JSONException("a file's name makes no sense")
            }
            Part(name, file.getLong("bytes"), file.getString("sha256"))
        }.toList()
    }
}
