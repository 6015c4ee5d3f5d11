package dev.mobilebundle.demo

import android.content.Context
import android.content.SharedPreferences
import dev.mobilebundle.lm.LoadOptions
import dev.mobilebundle.lm.Sampling

/** How answers are worded, as one choice of all sampling settings. */
enum class Style(val temperature: Int, val topP: Int, val topK: Int, val repetitionPenalty: Int) {
    EXACT(0, 100, 0, 105),
    BALANCED(70, 95, 40, 110),
    VARIED(100, 95, 100, 110),
}

/** What the user chose; kept by the system in the app's private storage. */
class Settings(context: Context) {
    private val preferences: SharedPreferences = context.getSharedPreferences("settings", Context.MODE_PRIVATE)

    /** 0: the runner's choice. */
    var threads by number("threads", 0)

    /** Tokens; 0: the model's own. */
    var context by number("context", 0)
    var maxNewTokens by number("max_new_tokens", 256)

    /** In hundredths, as the choices are exact that way. */
    var temperature by number("temperature", 70)
    var topP by number("top_p", 95)
    var topK by number("top_k", 40)
    var repetitionPenalty by number("repetition_penalty", 110)

    /** null: settings of the user's own. */
    var style: Style?
        get() = Style.values().find {
            it.temperature == temperature && it.topP == topP && it.topK == topK && it.repetitionPenalty == repetitionPenalty
        }
        set(value) {
            if (value == null) return
            temperature = value.temperature
            topP = value.topP
            topK = value.topK
            repetitionPenalty = value.repetitionPenalty
        }

    var systemPrompt: String
        get() = preferences.getString("system_prompt", "").orEmpty()
        set(value) = preferences.edit().putString("system_prompt", value).apply()

    /** [longest]: what the model was trained for; a longer choice would be refused. */
    fun loadOptions(longest: Int) =
        LoadOptions(context = context.takeIf { it > 0 }?.coerceAtMost(longest), threads = threads.takeIf { it > 0 })

    /** Another seed each time, so that an answer can be had anew. */
    fun sampling() = Sampling(
        temperature = temperature / HUNDREDTHS,
        topK = topK,
        topP = topP / HUNDREDTHS,
        repetitionPenalty = repetitionPenalty / HUNDREDTHS,
        seed = System.nanoTime() and Int.MAX_VALUE.toLong(),
    )

    private fun number(key: String, default: Int) = Number(preferences, key, default)

    /** A property that is a preference. */
    class Number(private val preferences: SharedPreferences, private val key: String, private val default: Int) {
        operator fun getValue(owner: Any?, property: Any?): Int = preferences.getInt(key, default)

        operator fun setValue(owner: Any?, property: Any?, value: Int) = preferences.edit().putInt(key, value).apply()
    }

    private companion object {
        const val HUNDREDTHS = 100f
    }
}
